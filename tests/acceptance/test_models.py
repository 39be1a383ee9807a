"""The registry of a node that runs, by its commands: a version's life, refusals, a kill between
commit and answer, two who want the same."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx2
import pytest
import structlog.testing

from supervision.telemetry.audit import NAME, read
from tests.support.artifact_shop import Shop
from tests.support.node_process import (
    TETHER,
    Launcher,
    Node,
    environment,
    tether,
    until,
    write_config,
)
from tests.support.waiting import PATIENCE_S
from tether.cli import app

HELD = 7  # an advisory lock that a commit waits for


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Three replicas without a model, a key, and who trusts it."""
    return Shop(tmp_path_factory.mktemp("shop"), size=1000)


@pytest.fixture(scope="module")
def echo_node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory, shop: Shop) -> Node:
    """A node with the echo model, which knows those replicas."""
    folder = tmp_path_factory.mktemp("models")
    artifacts = f"replicas = {json.dumps(shop.urls)}\ntrust_dir = {json.dumps(str(shop.trust))}"
    write_config(folder, more=f"[artifacts]\n{artifacts}")
    return launch(folder)


def models(node: Node, *words: str, code: int = 0) -> str:
    """What `tether models …` prints, or told if it fails; in this process, for they are many."""
    done = run(node.folder / "cluster.toml", "models", *words)
    assert done.code == code, done
    if code:
        assert done.errors.count("\n") == 1
        assert "Traceback" not in done.errors
    return done.errors if code else done.out


class Done(NamedTuple):
    code: int
    out: str
    errors: str


def run(config: Path, *words: str) -> Done:
    """One command, beside whatever loop runs here."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        ThreadPoolExecutor(1) as pool,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        pytest.MonkeyPatch.context() as patch,
        structlog.testing.capture_logs(),  # a process of its own tells what is critical only
    ):
        patch.setattr("tether.cli.artifacts.logs.configure", lambda _level: None)
        code = pool.submit(app._guarded, [*words, "--config", str(config)]).result()
    return Done(code, out.getvalue(), errors.getvalue())


def rows(node: Node, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in models(node, *words, "--json").splitlines()]


def stages(node: Node, name: str) -> dict[str, str]:
    return {row["version"]: row["stage"] for row in rows(node, "show", name)}


def offered(node: Node) -> set[str]:
    found = httpx2.get(f"{node.url}/v1/models", headers=node.headers).json()["data"]
    return {model["id"] for model in found}


def test_a_version_s_life(echo_node: Node) -> None:
    node = echo_node
    assert "echo@1 is stable, current already" in models(
        node, "promote", "echo@1", "--to", "stable"
    )
    policy = node.folder / "policy.toml"
    policy.write_text('tenants = ["acme"]\ncanary_share = 0.5\n')
    words = ["register", "echo@2", "--engine", "echo", "--context", "256", "--policy", str(policy)]
    words += ["--policy", "order=deadline,retry", "--policy", "retry.attempts=1"]
    words += ["--policy", "canary_share=0.25", "--policy", "regions=local,eu", "--memory-mib", "5"]
    assert models(node, *words) == "echo@2 is registered\n"
    assert models(node, *words) == "echo@2 is registered already\n"
    [shown] = rows(node, "show", "echo@2")
    assert (shown["context"], shown["memory_mib"], shown["current"]) == (256, 5, False)
    assert shown["policy"] == {
        "tenants": ["acme"], "regions": ["local", "eu"], "max_tokens": 0, "concurrency": 0,
        "reserve_tokens": 0, "slo": "standard", "canary_share": 0.25, "warm": "demand",
        "order": ["deadline", "retry"],
        "rate": None, "deadline": None, "bulkhead": None, "timeout": None,
        "retry": {
            "attempts": 1, "refusals": 8, "pause_s": 0.0, "max_pause_s": 5.0, "budget_ratio": 0.2,
            "budget_floor": 100,
        },
    }  # fmt: skip
    assert models(node, "promote", "echo@2") == "echo@2 is canary\necho@1 is current\n"
    assert models(node, "promote", "echo@2") == "echo@2 is stable, current\n"
    assert models(node, "rollback", "echo") == "echo@2 is registered\necho@1 is current\n"
    assert models(node, "promote", "echo@2", "--to", "stable").startswith("echo@2 is stable")
    assert models(node, "retire", "echo@2") == "echo@2 is retired\necho@1 is current\n"
    assert stages(node, "echo") == {"1": "stable", "2": "retired"}
    told = rows(node, "show", "echo@2", "--history")
    assert [line["what"] for line in told] == [
        "registered", "promoted", "promoted", "rolled_back", "promoted", "retired",
    ]  # fmt: skip
    assert len({line["by"] for line in told}) == 1
    assert "echo@2" in models(node, "show") and "rolled_back" in models(node, "show", "--history")
    audit = [(line.command, line.outcome) for line in read(node.folder / ".tether" / NAME)]
    assert audit[:2] == [("models promote", "begins"), ("models promote", "done")]
    assert ("models retire", "done") in audit


def test_what_was_pushed_is_registered_and_not_collected(echo_node: Node, shop: Shop) -> None:
    node, folder = echo_node, str(shop.folder)
    of = ("--engine", "transformers")
    assert "no replica knows tiny@1" in models(node, "register", "tiny@1", *of, code=1)
    wrong = models(node, "push", folder, "tiny@1", "--unsigned", "--register", "--context", "1",
                   code=1)  # fmt: skip
    assert "context" in wrong
    assert "no replica knows tiny@1" in models(node, "register", "tiny@1", *of, code=1), "pushed"
    config = node.folder / "cluster.toml"
    refused = run(config, "models", "push", folder, "tiny@1", "--unsigned", "--register")
    assert refused.code == 1
    assert f"sha256:{shop.digest} is not signed" in refused.errors
    assert "tiny" not in models(node, "show")
    key = str(shop.signer.file)
    pushed = models(node, "push", folder, "tiny@1", "--key", key, "--register", "--memory-mib", "9")
    assert pushed == f"sha256:{shop.digest}\ntiny@1 is registered\n"
    assert models(node, "register", "tiny@1", *of, "--memory-mib", "9").endswith("already\n")

    lines = {line["name"]: line for line in rows(node, "ls")}
    assert lines["tiny@1"]["versions"] == [
        {"ref": "tiny@1", "stage": "registered", "current": False}
    ]
    assert lines["echo@1"]["versions"][0]["current"]
    assert "3 of 3" in (listed := models(node, "ls")) and "stable, current" in listed

    for command in (["forget", "tiny@1"], ["gc", "--grace-hours", "0"], ["gc"]):
        done = run(config, "artifacts", *command)
        assert done.code == 0, done.errors
        assert "more are unused" not in done.out
    assert rows(node, "ls")[0]["name"] != "tiny@1"
    again = ("register", "tiny@2", *of, "--source", f"sha256:{shop.digest}")
    assert models(node, *again) == "tiny@2 is registered\n"
    models(node, "retire", "tiny@1")
    models(node, "retire", "tiny@2")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["show", "nothing"], 1, "tether models show"),
        (["promote", "echo@9"], 1, "has no echo@9"),
        (["promote", "echo"], 1, "it has echo@"),
        (["promote", "echo@1", "--to", "fame"], 2, "--help"),
        (["rollback", "echo@1"], 1, "only stable version"),
        (["rollback", "nothing"], 1, "neither a canary nor a stable"),
        (["retire", "echo@1"], 1, "or force it"),
        (["register", "echo@1", "--engine", "echo"], 1, "context 8192 → 2048"),
        (["register", "echo", "--engine", "echo"], 1, "no NAME@VERSION"),
        (["register", "a/b c@1", "--engine", "echo"], 1, "name: "),
        (["register", "m@1", "--engine", "abacus", "--source", "/x"], 1, "engine: 'abacus'"),
        (["register", "m@1", "--engine", "gguf"], 1, "no replica knows m@1"),
        (["register", "m@1", "--engine", "gguf", "--source", "sha256:12"], 1, "64 hex digits"),
        (
            ["register", "m@1", "--engine", "gguf", "--source", f"sha256:{'1' * 64}"],
            1,
            "no replica",
        ),
        (["register", "m@1", "--engine", "echo", "--context", "1"], 1, "context: "),
        (["register", "m@1", "--engine", "echo", "--context", "many"], 2, "context"),
        (["register", "m@1", "--engine", "echo", "--adapter", "x"], 1, "takes no adapter"),
        (["register", "m@1", "--engine", "echo", "--policy", "slo=best"], 1, "policy.slo: "),
        (["register", "m@1", "--engine", "echo", "--policy", "x=1"], 1, "policy.x: "),
        (["register", "m@1", "--engine", "echo", "--policy", "order=retry,no"], 1, "order[1]: "),
        (["register", "m@1", "--engine", "echo", "--policy", "retry.x=1"], 1, "policy.retry.x: "),
        (["register", "m@1", "--engine", "echo", "--policy", "canary_share=2"], 1, "canary_share"),
        (["register", "m@1", "--engine", "echo", "--policy", "none.toml"], 2, "none.toml"),
        (["register", "m@1"], 2, "--engine"),
    ],
)
def test_what_is_refused(echo_node: Node, words: list[str], code: int, says: str) -> None:
    assert says in models(echo_node, *words, code=code)


@pytest.fixture
async def held_commits(echo_node: Node) -> AsyncIterator[asyncpg.Connection]:
    """Changes of models wait at their commit until this connection lets go of `HELD`."""
    connection = await asyncpg.connect(echo_node.owner_dsn)
    await connection.execute(
        f"""
        CREATE FUNCTION wait_held() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock({HELD}); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER held AFTER INSERT ON model_changes
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_held();
        """
    )
    try:
        yield connection
    finally:
        await connection.execute("SELECT pg_advisory_unlock_all()")
        await connection.execute("DROP TRIGGER held ON model_changes; DROP FUNCTION wait_held()")
        await connection.close()


async def test_a_registry_killed_between_commit_and_answer(
    echo_node: Node, held_commits: asyncpg.Connection
) -> None:
    """Its command asks the next one again, and nothing is done twice."""
    node = echo_node
    models(node, "register", "killed@1", "--engine", "echo")
    registry = node.tree()["control/registry"]["pid"]
    await held_commits.execute("SELECT pg_advisory_lock($1)", HELD)
    waits = "SELECT count(*) FROM pg_locks WHERE objid = $1 AND NOT granted"
    asked = await asyncio.create_subprocess_exec(
        *TETHER, "models", "promote", "killed@1", cwd=node.folder, env=environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:

        async def commits() -> bool:
            return bool(await held_commits.fetchval(waits, HELD))

        await until(commits, "the registry commits")
        os.kill(registry, signal.SIGKILL)
        await held_commits.execute("SELECT pg_advisory_unlock($1)", HELD)
        out, errors = await asyncio.wait_for(asked.communicate(), 2 * PATIENCE_S)
    finally:
        if asked.returncode is None:
            asked.kill()
            await asked.wait()
    assert (asked.returncode, errors) == (0, b"")
    assert out == b"killed@1 is canary already\n"
    assert node.tree()["control/registry"]["pid"] != registry
    told = rows(node, "show", "killed@1", "--history")
    assert [line["after"] for line in told] == ["registered", "canary"]
    models(node, "retire", "killed@1")


def test_two_operators_at_once(echo_node: Node) -> None:
    for version in "12":
        models(echo_node, "register", f"race@{version}", "--engine", "echo")
    with ThreadPoolExecutor(2) as pool:
        done = list(
            pool.map(
                lambda ref: tether("models", "promote", ref, cwd=echo_node.folder),
                ["race@1", "race@2"],
            )
        )
    assert sorted(d.returncode for d in done) == [0, 1]
    [told] = [d.stderr for d in done if d.returncode]
    assert "is the canary of race" in told or "was changed meanwhile" in told
    assert sorted(stages(echo_node, "race").values()) == ["canary", "registered"]


async def test_a_restart_keeps_it_all(echo_node: Node) -> None:
    before = rows(echo_node, "show")
    os.kill(echo_node.tree()["control/registry"]["pid"], signal.SIGKILL)

    async def same() -> bool:
        done = run(echo_node.folder / "cluster.toml", "models", "show", "--json")
        return done.code == 0 and [json.loads(row) for row in done.out.splitlines()] == before

    await until(same, "the next registry shows the same")


def test_without_a_node(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    for words in (
        ["show"],
        ["promote", "echo@1"],
        ["rollback", "echo"],
        ["retire", "echo@1"],
        ["register", "echo@2", "--engine", "echo"],
    ):
        done = run(path, "models", *words)
        assert (done.code, done.out, done.errors.count("\n")) == (1, "", 1)
        assert "`tether up` starts one" in done.errors
