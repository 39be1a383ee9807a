"""What a node bills, proved, given back and summed up by the commands."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from supervision.telemetry import audit
from tests.support.node_process import ECHO, Launcher, Node, tether, until, write_config

SCRIPT = Path(__file__).parents[2] / "examples" / "verify_receipt.py"
PRICES = """
[[prices]]
model = "*"
currency = "EUR"
prompt = "1"
output = 2.5
request = "0.000007"
"""


@pytest.fixture(scope="module")
def node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A node that sells its answers, and seals every second."""
    folder = tmp_path_factory.mktemp("books")
    write_config(folder, models=ECHO + PRICES, more="[stores]\nseal_s = 1")
    return launch(folder)


def asked(node: Node, words: str) -> dict[str, Any]:
    answer = httpx2.post(
        f"{node.url}/v1/chat/completions",
        headers=node.headers,
        json={"model": "echo", "messages": [{"role": "user", "content": words}]},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    usage: dict[str, Any] = answer.json()["usage"]
    return usage


def test_prices_of_the_configuration_and_of_an_operator(node: Node) -> None:
    folder = node.folder
    (row,) = map(json.loads, tether("prices", "list", "--json", cwd=folder).stdout.splitlines())
    assert (row["model"], row["made_by"], row["output"]) == ("*", "configuration", 2_500_000)
    made = tether("prices", "set", "other", "--currency", "EUR", "--output", "3.000001", cwd=folder)
    assert made.returncode == 0, made.stderr
    assert "of other holds from" in made.stdout
    assert "3.000001" in tether("prices", "show", "other", cwd=folder).stdout
    for words, says in (
        (("other", "--currency", "USD"), "prices of this cluster are in EUR"),
        (("other", "--currency", "euro"), "ISO 4217"),
        (("other", "--currency", "EUR", "--output", "-1"), "below 0"),
        (("other", "--currency", "EUR", "--output", "x"), "decimal"),
        (("other", "--currency", "EUR", "--from", "2020-01-01"), "is past"),
        (("other", "--currency", "EUR", "--from", "soon"), "is no time"),
        (("an other", "--currency", "EUR"), "model"),
    ):
        refused = tether("prices", "set", *words, cwd=folder)
        assert refused.returncode in (1, 2)
        assert says in refused.stderr, refused.stderr
    assert "has no price of its own" in tether("prices", "show", "nothing", cwd=folder).stderr
    said = [e.command for e in audit.read(folder / ".tether" / audit.NAME)]
    assert said.count("prices set") >= 2


async def test_a_bill_is_proved_given_back_and_summed_up(node: Node) -> None:
    folder = node.folder
    usage = asked(node, "one two three four five")
    prompt, output = usage["prompt_tokens"], usage["completion_tokens"]
    micros = prompt * 1 + -(-output * 5 // 2) + 7
    job = str(await node.sql("SELECT job_id FROM ledger ORDER BY seq DESC LIMIT 1"))

    async def sealed() -> bool:
        told = json.loads(tether("receipt", job, "--json", cwd=folder).stdout)
        return all(entry["block"] for entry in told["entries"])

    await until(sealed, "its entry is sealed")
    number, head = tether("ledger", "head", cwd=folder).stdout.split()
    told = tether("receipt", job, "--json", "--head", number, cwd=folder).stdout
    assert json.loads(told)["bill"]["micros"] == micros

    def says(told: str, head: str) -> int:
        command = [sys.executable, "-I", SCRIPT, head]
        return subprocess.run(command, input=told.encode(), check=False, timeout=60).returncode

    assert says(told, head) == 0
    assert says(told.replace('"output_tokens":', '"output_tokens":1', 1), head) == 1
    assert "EUR" in tether("receipt", job, cwd=folder).stdout

    refunded = tether("ledger", "refund", job, "--micros", "8", "--reason", "slow", cwd=folder)
    assert refunded.returncode == 0, refunded.stderr
    assert "gave back 0 tokens and 0.000008" in refunded.stdout
    more = tether("ledger", "refund", job, "--micros", str(micros), "--reason", "x", cwd=folder)
    assert more.returncode == 1
    assert "can't be given back" in more.stderr
    begun = [e for e in audit.read(folder / ".tether" / audit.NAME) if e.outcome == audit.BEGINS]
    assert begun[-2].arguments == (job, "--micros 8", "slow")

    month = f"{datetime.now(UTC):%Y-%m}"
    statement = ("ledger", "statement", "acme", "--month", month)
    (line,) = map(json.loads, tether(*statement, "--json", cwd=folder).stdout.splitlines())
    assert (line["micros"], line["prompt_tokens"], line["jobs"]) == (micros - 8, prompt, 1)
    (row,) = csv.DictReader(io.StringIO(tether(*statement, "--csv", cwd=folder).stdout))
    assert int(row["micros"]) == micros - 8
    assert "in all" in tether(*statement, cwd=folder).stdout
    assert "no month" in tether("ledger", "statement", "acme", "--month", "x", cwd=folder).stderr

    good = tether("ledger", "verify", "--head", head, cwd=folder)
    assert (good.returncode, good.stderr) == (0, "")
    assert "are what was sealed" in good.stdout
    assert tether("ledger", "verify", "--head", "ab" * 32, cwd=folder).returncode == 1


async def test_whoever_changes_an_entry_is_found(node: Node) -> None:
    asked(node, "one more")

    async def sealed() -> bool:
        return bool(
            await node.sql("SELECT max(to_seq) = (SELECT max(seq) FROM ledger) FROM ledger_blocks")
        )

    await until(sealed, "all is sealed")
    await node.sql("ALTER TABLE ledger DISABLE TRIGGER USER")
    change = "UPDATE ledger SET micros = micros + $1 WHERE seq = (SELECT min(seq) FROM ledger)"
    await node.sql(change, 1)
    found = tether("ledger", "verify", cwd=node.folder)
    assert found.returncode == 1
    assert "was changed since block" in found.stderr
    await node.sql(change, -1)
    assert tether("ledger", "verify", cwd=node.folder).returncode == 0
