"""A client that pays: it sends an `Order`, again under its key where that has to be, and keeps
what it was given."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import httpx2

from tests.support.orders import CHAT, VECTORS, Kind, Order
from tests.support.sse import echoed

PATIENCE_S: Final = 300.0  # for one answer, with all that is killed meanwhile
PAUSE_S: Final = 0.25  # before it is asked again
_AGAIN: Final = frozenset({429, 502, 503})


class Ended(StrEnum):
    """How it was for the client."""

    WHOLE = "whole"
    LEFT = "left"  # by the client
    LATE = "late"  # its own deadline passed
    BROKEN = "broken"  # by us, and not asked again
    REFUSED = "refused"  # nothing began
    GONE = "gone"  # answered and billed, it is told, and nobody holds the answer


@dataclass
class Purchase:
    """What became of an order. `received` counts the tokens of its last try, `token` is the retry
    token of its job, empty where the client can't know it; times are monotonic."""

    order: Order
    began: float = field(default_factory=time.monotonic)
    over: float = 0.0
    tries: int = 0
    token: str = ""
    text: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    ended: Ended | None = None
    told: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    twin: Purchase | None = None

    @property
    def received(self) -> int:
        """An echo's tokens are words."""
        return len(self.text.split()) if self.order.endpoint != VECTORS else 0


async def buy(client: httpx2.AsyncClient, order: Order, patience_s: float = PATIENCE_S) -> Purchase:
    """All that the order's kind says, to its end."""
    if order.kind is Kind.BESIDE:
        bought, twin = await asyncio.gather(
            _bought(client, order, patience_s), _bought(client, order, patience_s)
        )
        bought.twin = twin
    else:
        bought = await _bought(client, order, patience_s)
        if order.kind is Kind.AGAIN and bought.ended is Ended.WHOLE:
            bought.twin = await _bought(client, order, patience_s)
    other = bought.twin
    if (
        other
        and other.ended is bought.ended is Ended.WHOLE
        and (bought.text, bought.usage) != (other.text, other.usage)
    ):
        bought.faults.append(f"{order.key} was answered twice, and not alike")
    return bought


async def _bought(client: httpx2.AsyncClient, order: Order, patience_s: float) -> Purchase:
    bought = Purchase(order, token=order.key if order.keyed else "")
    while bought.ended is None:
        bought.tries += 1
        try:
            bought.ended = await _tried(client, bought)
        except httpx2.ConnectError as error:
            bought.told.append(type(error).__name__)  # nothing began
        except (httpx2.HTTPError, json.JSONDecodeError) as error:
            bought.told.append(type(error).__name__)
            if not order.keyed:
                bought.ended = Ended.BROKEN
        if bought.ended is None:
            if time.monotonic() - bought.began > patience_s:
                bought.ended = Ended.BROKEN
                bought.faults.append(f"{order.key} was never answered: {bought.told[-3:]}")
            else:
                await asyncio.sleep(PAUSE_S)
    bought.over = time.monotonic()
    return bought


async def _tried(client: httpx2.AsyncClient, bought: Purchase) -> Ended | None:
    """None when it may be asked again."""
    order = bought.order
    bought.text, bought.usage = "", {}
    headers = {"x-request-timeout-s": f"{order.deadline_s:g}"}
    if order.keyed:
        headers["idempotency-key"] = order.key
    leaves_s = order.takes_s * order.leaves_at / max(1, order.tokens)
    try:
        async with (
            asyncio.timeout(leaves_s if order.leaves_at and not order.stream else None),
            client.stream(
                "POST", f"/v1/{order.endpoint}", json=body_of(order), headers=headers
            ) as answer,
        ):
            if not order.keyed:
                bought.token = answer.headers.get("x-request-id", "")
            if answer.status_code != 200:
                return _refused(bought, answer.status_code, json.loads(await answer.aread()))
            if order.stream:
                return await _streamed(bought, answer)
            return _whole(bought, json.loads(await answer.aread()))
    except TimeoutError:
        return Ended.LEFT


def body_of(order: Order) -> dict[str, Any]:
    """As the endpoint takes it."""
    if order.endpoint == VECTORS:
        return {"model": "vectors", "input": order.prompt}
    asked: dict[str, Any] = {"model": "echo", "max_tokens": order.tokens}
    if order.endpoint == CHAT:
        asked["messages"] = [{"role": "user", "content": order.prompt}]
    else:
        asked["prompt"] = order.prompt
    if order.stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return asked


def _refused(bought: Purchase, status: int, said: dict[str, Any]) -> Ended | None:
    code = said["error"]["code"]
    bought.told.append(f"{status} {code}")
    if status == 504:
        return Ended.LATE
    if code == "answer_gone":
        return Ended.GONE
    if status not in _AGAIN:
        bought.faults.append(f"{bought.order.key} was told {status} {said['error']['message']}")
        return Ended.REFUSED
    return None if bought.order.keyed else Ended.REFUSED


def _whole(bought: Purchase, said: dict[str, Any]) -> Ended:
    order = bought.order
    bought.usage = {name: n for name, n in said["usage"].items() if isinstance(n, int)}
    if order.endpoint != VECTORS:
        (choice,) = said["choices"]
        bought.text = choice["message"]["content"] if order.endpoint == CHAT else choice["text"]
    return _checked(bought)


async def _streamed(bought: Purchase, answer: httpx2.Response) -> Ended | None:
    order, finished = bought.order, False
    async for line in answer.aiter_lines():
        if line == "data: [DONE]" and finished:
            return _checked(bought)
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            bought.told.append(event["error"]["code"])
            if event["error"]["code"] == "deadline_exceeded":
                return Ended.LATE
            return None if order.keyed else Ended.BROKEN
        if usage := event.get("usage"):
            bought.usage = {name: n for name, n in usage.items() if isinstance(n, int)}
        for choice in event["choices"]:
            said = choice["delta"].get("content") if order.endpoint == CHAT else choice["text"]
            bought.text += said or ""
            finished = finished or choice["finish_reason"] is not None
        if order.leaves_at and bought.received >= order.leaves_at:
            return Ended.LEFT
    bought.told.append("cut")
    return None if order.keyed else Ended.BROKEN


def _checked(bought: Purchase) -> Ended:
    order = bought.order
    if order.endpoint != VECTORS and bought.text != echoed(order.prompt, order.tokens):
        bought.faults.append(f"{order.key}: wrong words: {bought.text[:80]!r}")
    if not bought.usage:
        bought.faults.append(f"{order.key} was told no usage")
    return Ended.WHOLE
