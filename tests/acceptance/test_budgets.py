"""Budgets of a whole node: set over HTTP and at the command line, heard of by real clients."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest

from tests.support.node_process import Node, tether
from tests.support.waiting import PATIENCE_S

ROOT = "/v1/admin/budgets"
SAYS: list[Any] = [{"role": "user", "content": "one two three"}]


def made(node: Node, tenant: str, *more: str) -> str:
    key = tether("keys", "create", tenant, *more, cwd=node.folder)
    assert key.returncode == 0, key.stderr
    return key.stdout.strip()


def client(node: Node, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{node.url}/v1", api_key=key, timeout=PATIENCE_S, max_retries=2
    )


async def test_a_budget_over_http_and_who_is_refused(echo_node: Node) -> None:
    key, operator = made(echo_node, "spender"), made(echo_node, "ops", "--operator")
    async with httpx2.AsyncClient(
        base_url=echo_node.url,
        headers={"authorization": f"Bearer {operator}"},
        timeout=PATIENCE_S,
    ) as http:
        said = {"tenant": "spender", "period": "month", "unit": "tokens", "amount": 300}
        put = await http.put(ROOT, json=said)
        assert put.status_code == 200, put.text
        budget = put.json()
        assert (budget["left"], budget["warn"], budget["over"]) == (300, [80, 95], 402)
        spender = client(echo_node, key)
        ok = await spender.chat.completions.create(model="echo", messages=SAYS, max_tokens=10)
        assert ok.usage is not None
        shown = (await http.get(f"{ROOT}/{budget['id']}")).json()
        while shown["reserved"]:  # the settle is behind the answer
            shown = (await http.get(f"{ROOT}/{budget['id']}")).json()
        assert shown["spent"] == ok.usage.total_tokens
        with pytest.raises(openai.APIStatusError) as over:
            await spender.chat.completions.create(model="echo", messages=SAYS, max_tokens=250)
        assert over.value.status_code == 402
        error = over.value.response.json()["error"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "budget_exceeded")
        assert (
            f"budget {budget['id']} of tenant spender has {shown['left']} of 300"
            in (error["message"])
        )
        assert int(over.value.response.headers["retry-after"]) > 0
        # without max_tokens the answer ends where the budget does
        cut = await spender.chat.completions.create(model="echo", messages=SAYS)
        assert cut.choices[0].finish_reason == "length" and cut.usage is not None
        assert 0 < cut.usage.completion_tokens < 256
        await http.put(ROOT, json={**said, "amount": 1, "over": 429})
        with pytest.raises(openai.RateLimitError) as quota:
            await spender.chat.completions.create(model="echo", messages=SAYS, max_tokens=1)
        assert quota.value.code == "insufficient_quota"
        shown = (await http.get(f"{ROOT}/{budget['id']}")).json()
        assert shown["refused"] == 2, "a client has tried again"
        assert [event["share"] for event in shown["events"]] == [100, 95, 80]
        assert (await http.delete(f"{ROOT}/{budget['id']}")).status_code == 200
        assert (await http.get(ROOT, params={"tenant": "spender"})).json()["data"] == []
        await spender.chat.completions.create(model="echo", messages=SAYS, max_tokens=1)
    audit = (echo_node.folder / ".tether" / "audit.jsonl").read_text()
    assert '"budgets set"' in audit and '"budgets remove"' in audit


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"amount": -1}, "amount"),
        ({"warn": [0]}, "warn"),
        ({"warn": [101]}, "warn"),
        ({"tenant": "nobody"}, "tenant"),
        ({"key": "nothing"}, "key"),
        ({"period": "week"}, "period"),
        ({"over": 500}, "over"),
    ],
)
async def test_what_can_be_no_budget_is_400(
    echo_node: Node, wrong: dict[str, Any], param: str
) -> None:
    operator = made(echo_node, "ops", "--operator")
    said = {"tenant": "ops", "period": "day", "unit": "micros", "amount": 5, **wrong}
    async with httpx2.AsyncClient(base_url=echo_node.url, timeout=PATIENCE_S) as http:
        answer = await http.put(ROOT, json=said, headers={"authorization": f"Bearer {operator}"})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param
        denied = await http.get(ROOT, headers=echo_node.headers)
        assert denied.status_code == 403


def test_budgets_at_the_command_line(echo_node: Node) -> None:
    made(echo_node, "saver")
    where = echo_node.folder
    put = tether("budgets", "set", "saver", "5_000_000", "--warn", "50", "--json", cwd=where)
    assert put.returncode == 0, put.stderr
    budget = json.loads(put.stdout)
    assert (budget["amount"], budget["unit"], budget["warn"]) == (5_000_000, "micros", [50])
    listed = tether("budgets", "list", "saver", cwd=where).stdout
    assert "5,000,000" in listed and "saver" in listed
    assert "saver" in tether("budgets", "show", str(budget["id"]), cwd=where).stdout
    for words, why in (
        (("set", "saver", "--", "-5"), "must be from 0"),
        (("set", "nobody", "5"), "no tenant 'nobody'"),
        (("set", "saver", "5", "--warn", "0"), "shares from 1 to 100"),
        (("set", "saver", "five"), "no whole number"),
        (("show", "999"), "no budget 999"),
        (("remove", "999"), "no budget 999"),
    ):
        failed = tether("budgets", *words, cwd=where)
        assert failed.returncode == 1 and why in failed.stderr, failed
    assert tether("budgets", "remove", str(budget["id"]), cwd=where).returncode == 0
    assert "saver" not in tether("budgets", "list", cwd=where).stdout
