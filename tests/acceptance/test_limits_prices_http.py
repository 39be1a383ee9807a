"""Limits of tenants and prices of models, set over HTTP by operators, and their effect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from tests.support.node_process import Node, tether, until
from tests.support.waiting import PATIENCE_S

LIMITS, PRICES = "/v1/admin/limits", "/v1/admin/prices"
PRICE: dict[str, Any] = {"model": "echo", "currency": "EUR", "prompt": "0.15", "output": 0.6}


def made(node: Node, tenant: str, *more: str) -> str:
    key = tether("keys", "create", tenant, *more, cwd=node.folder)
    assert key.returncode == 0, key.stderr
    return key.stdout.strip()


@pytest_asyncio.fixture
async def operator(echo_node: Node) -> AsyncIterator[httpx2.AsyncClient]:
    key = made(echo_node, "ops", "--operator")
    async with httpx2.AsyncClient(
        base_url=echo_node.url, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE_S
    ) as http:
        yield http


async def asked(node: Node, key: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=node.url, timeout=PATIENCE_S) as http:
        return await http.post(
            "/v1/chat/completions",
            json={"model": "echo", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]},
            headers={"authorization": f"Bearer {key}"},
        )


async def test_limits_are_set_and_hold(echo_node: Node, operator: httpx2.AsyncClient) -> None:
    key = made(echo_node, "limited")
    none = {
        "object": "limits", "tenant": "limited", "requests_per_minute": None,
        "tokens_per_minute": None, "max_concurrency": None,
    }  # fmt: skip
    assert (await operator.get(f"{LIMITS}/limited")).json() == none
    put = await operator.put(f"{LIMITS}/limited", json={"requests_per_minute": 1})
    assert put.status_code == 200, put.text
    assert put.json() == {**none, "requests_per_minute": 1}

    async def refused() -> bool:
        return (await asked(echo_node, key)).status_code == 429

    await until(refused, "its gateway has heard of the limit")
    put = await operator.put(f"{LIMITS}/limited", json={"max_concurrency": 7})
    assert put.json() == {**none, "max_concurrency": 7}, "what isn't said is the default again"
    everybody = (await operator.get(LIMITS)).json()
    assert not everybody["has_more"]
    assert {**none, "max_concurrency": 7} in everybody["data"]
    names = [own["tenant"] for own in everybody["data"]]
    later = (await operator.get(LIMITS, params={"after": "limited"})).json()["data"]
    assert [own["tenant"] for own in later] == [name for name in names if name > "limited"]
    assert (await operator.delete(f"{LIMITS}/limited")).json() == none

    async def answered() -> bool:
        return (await asked(echo_node, key)).status_code == 200

    await until(answered, "its gateway has heard that there is none")
    audit = (echo_node.folder / ".tether" / "audit.jsonl").read_text()
    assert '"limits set"' in audit and "requests=1" in audit


async def test_a_price_is_added_and_billed(echo_node: Node, operator: httpx2.AsyncClient) -> None:
    key = made(echo_node, "payer")
    added = await operator.post(PRICES, json=PRICE)
    assert added.status_code == 201, added.text
    price = added.json()
    amounts = {name: price[name] for name in ("prompt", "cached", "reasoning", "output", "request")}
    assert amounts == {
        "prompt": "0.150000", "cached": "0.150000", "reasoning": "0.600000", "output": "0.600000",
        "request": "0.000000",
    }  # fmt: skip
    assert price["made_by"]
    to_come = f"{datetime.now(UTC) + timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}"
    later = await operator.post(PRICES, json={**PRICE, "model": "*", "from": to_come})
    assert later.json()["from"].startswith(to_come[:-1])
    listed = (await operator.get(PRICES)).json()
    assert [one["version"] for one in listed["data"]] == [later.json()["version"], price["version"]]
    only = (await operator.get(PRICES, params={"model": "echo"})).json()["data"]
    assert only == [price]

    async def billed() -> bool:
        await asked(echo_node, key)
        return bool(
            await echo_node.sql(
                "SELECT count(*) FROM ledger WHERE tenant_id = 'payer' AND price = $1 "
                "AND micros = ceil(prompt_tokens * 0.15 + output_tokens * 0.6)",
                price["version"],
            )
        )

    await until(billed, "the reservation has heard of the price")
    assert '"prices set"' in (echo_node.folder / ".tether" / "audit.jsonl").read_text()


@pytest.mark.parametrize(
    ("path", "wrong", "param"),
    [
        (f"{LIMITS}/ops", {"requests_per_minute": 0}, "requests_per_minute"),
        (f"{LIMITS}/ops", {"requests_per_minute": 2**31}, "requests_per_minute"),
        (f"{LIMITS}/ops", {"requests": 5}, None),
        (f"{LIMITS}/nobody", {"requests_per_minute": 5}, "tenant"),
        (f"{LIMITS}/{'n' * 300}", {"requests_per_minute": 5}, "tenant"),
        (PRICES, {**PRICE, "currency": "EURO"}, "currency"),
        (PRICES, {**PRICE, "currency": "USD"}, "currency"),
        (PRICES, {**PRICE, "output": -1}, "output"),
        (PRICES, {**PRICE, "output": "0.0000001"}, "output"),
        (PRICES, {**PRICE, "output": "1e999999"}, "output"),
        (PRICES, {**PRICE, "output": "NaN"}, "output"),
        (PRICES, {**PRICE, "model": "a model"}, "model"),
        (PRICES, {**PRICE, "from": "2020-01-01T00:00:00Z"}, "from"),
        (PRICES, {**PRICE, "from": "0001-01-01T00:00:00"}, "from"),
        (PRICES, {"model": "echo"}, "currency"),
        (PRICES, {**PRICE, "each": 1}, None),
    ],
)
async def test_what_can_be_none_is_400(
    operator: httpx2.AsyncClient, path: str, wrong: dict[str, Any], param: str | None
) -> None:
    await operator.post(PRICES, json={**PRICE, "model": "euros"})
    send = operator.post if path == PRICES else operator.put
    answer = await send(path, json=wrong)
    assert answer.status_code == 400, answer.text
    assert param is None or answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize("path", [LIMITS, f"{LIMITS}/ops", PRICES])
async def test_they_are_for_operators(echo_node: Node, path: str) -> None:
    async with httpx2.AsyncClient(base_url=echo_node.url, timeout=PATIENCE_S) as http:
        assert (await http.get(path, headers=echo_node.headers)).status_code == 403
        assert (await http.get(path)).status_code == 401
        changes = (("PUT", f"{LIMITS}/ops", {}), ("POST", PRICES, PRICE))
        for method, where, body in changes:
            answer = await http.request(method, where, json=body, headers=echo_node.headers)
            assert answer.status_code == 403
