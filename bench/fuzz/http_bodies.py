"""Bodies of every route of a front door that takes one, from a client whose key is good: all of the
exchange, up to the contract that goes to a gateway, and the answer, which is an error or is not.

An input is a body; its first byte says to which route, and in how many pieces.
"""

from __future__ import annotations

import asyncio
import base64
import json
from random import Random
from typing import Any, Final, cast

import msgspec
from starlette.requests import Request

from actors.contracts import (
    Authenticated,
    Completed,
    EmbeddingInput,
    Infer,
    ModelsShown,
    RegisterModel,
    Usage,
)
from bench.fuzz.mutation import grown, json_changed
from bench.fuzz.target import LONGEST, Target
from supervision.errors import TetherError
from supervision.runtime import codec
from tether.http import errors
from tether.http.admission import DoorAdmission
from tether.http.bodies import Bodies
from tether.http.completions import ChatFormat, TextFormat
from tether.http.doorkeeper import Doorkeeper
from tether.http.embeddings import EmbeddingsFormat
from tether.http.envelope import Envelope
from tether.http.exchange import Exchange
from tether.http.gateways import Gateways
from tether.http.infer import InferFormat
from tether.http.operator_requests import OperatorRequests
from tether.http.options import DoorOptions
from tether.http.registry import RegistryRoutes
from tether.http.storage import Storage

GROWTH: Final = 64  # an empty table of JSON is two bytes, and one of Python's 64
SLACK: Final = 1 << 18
DEADLINE_S: Final = b"30"

_CHATS: Final = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
_SAMPLING: Final = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["\n"], "stream": True}
_CARD: Final = {"name": "org/m", "version": "1", "engine": "echo", "source": "s", "context": 64}
_POLICY: Final = {"tenants": ["a"], "max_tokens": 9, "order": ["rate"], "rate": {"per_s": 1.5}}
_BODIES: Final[tuple[tuple[int, dict[str, Any]], ...]] = (
    (0, {**_CHATS, **_SAMPLING, "max_tokens": 5, "n": 1, "tools": []}),
    (0, {**_CHATS, "messages": [{"role": "tool", "content": [{"type": "text", "text": "a"}]}]}),
    (1, {"model": "m", "prompt": ["hi"], "max_tokens": 3, "best_of": 1, **_SAMPLING}),
    (2, {"modelId": "m", "version": "1", "input": "hi", "retryToken": "r", "traceId": "a" * 32}),
    (2, {"modelId": "m", "input": {"messages": _CHATS["messages"]}, "correlationId": "c"}),
    (3, {"model": "m", "input": ["a", "b"], "encoding_format": "base64"}),
    (4, {**_CARD, "policy": _POLICY, "memory_mib": 3, "special_tokens_in_text": True}),
    (5, {"to": "canary", "force": True}),
)


class _Gateways:
    """Gateways that answer at once. What is said to them is written as it is for the wire."""

    async def authenticate(self, credential: str) -> Authenticated:
        return _WHO

    async def govern(self, credential: str, what: Any) -> ModelsShown:
        codec.decode(codec.encode(what))
        models = (what.card,) if isinstance(what, RegisterModel) else ()
        return ModelsShown(models=models, current=(), revision=1)

    async def answer(self, infer: Infer, remaining_s: Any) -> Any:
        codec.decode(codec.encode(infer))
        texts = len(infer.input.texts) if isinstance(infer.input, EmbeddingInput) else 1
        text = base64.b64encode(bytes(4 * texts)).decode()
        yield [Completed(0, (), text, "stop", Usage(1, 1), model_ref=infer.model_ref)]


_WHO: Final = Authenticated(tenant_id="t", key_id="k")


class _Door:
    """What a door has, on a loop of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._failed)
        self.failed: list[Any] = []
        options = DoorOptions(max_body_bytes=LONGEST)
        gateways = cast(Gateways, _Gateways())
        doorkeeper, bodies = Doorkeeper(gateways), Bodies(options)
        self._exchanges = [
            Exchange(
                api_format,
                gateways,
                options,
                doorkeeper=doorkeeper,
                admission=DoorAdmission(8),
                bodies=bodies,
                storage=Storage(cast(Any, None), ""),
            )
            for api_format in (ChatFormat(64), TextFormat(), InferFormat(64), EmbeddingsFormat())
        ]
        self._registry = RegistryRoutes(OperatorRequests(gateways, doorkeeper, bodies, "registry"))
        self._budget = bodies.budget

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failed.append(context)

    def read(self, data: bytes) -> int:
        """The status of the answer."""
        return self.loop.run_until_complete(self._read(data))

    async def _read(self, data: bytes) -> int:
        at, pieces = (data[0] % 6, 1 + data[0] // 6 % 3) if data else (0, 1)
        body = data[1:]
        step = max(1, -(-len(body) // pieces))
        parts = [body[begin : begin + step] for begin in range(0, len(body), step)] or [b""]
        said: list[Any] = []

        async def receive() -> Any:
            if not parts:
                await asyncio.Event().wait()
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: Any) -> None:
            said.append(message)

        headers = [(b"authorization", b"Bearer tether-t-x"), (b"x-request-timeout-s", DEADLINE_S)]
        if pieces == 1:
            headers.append((b"content-length", b"%d" % len(body)))
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "query_string": b""}
        scope |= {"headers": headers, "tether": Envelope(dict(headers))}
        if at < len(self._exchanges):
            await self._exchanges[at](scope, receive, send)
        else:
            scope["path_params"] = {"ref": "org/m@1"}
            await self._govern(at, Request(scope, receive), send)
        failed, self.failed = self.failed, []
        assert not failed, failed
        assert self._budget.used == 0, (
            f"{self._budget.used} bytes of the budget were not given back"
        )
        status = int(said[0]["status"])
        assert status < 500, said
        return status

    async def _govern(self, at: int, request: Request, send: Any) -> None:
        registry = self._registry
        try:
            answer = await (registry.register(request) if at == 4 else registry.promote(request))
            await send({"type": "http.response.start", "status": answer.status_code})
        except TetherError as error:
            status, _, _ = errors.answer(error)
            await send({"type": "http.response.start", "status": status})


_doors: list[_Door] = []


def read(data: bytes) -> object:
    if not _doors:
        _doors.append(_Door())
    return _doors[0].read(data)


def _changed(data: bytes, random: Random) -> bytes:
    if random.random() < 0.05:
        return random.randbytes(1) + data[1:]
    return data[:1] + _grown(data[1:], random)


_grown = grown(json_changed, LONGEST)

TARGET = Target(
    name="HTTP bodies",
    read=read,
    seeds=tuple(
        bytes((route + 6 * number % 252,)) + json.dumps(body).encode()
        for number, (route, body) in enumerate(_BODIES)
    ),
    growth=GROWTH,
    slack=SLACK,
    ours=(),
    classes=(Infer, msgspec.Struct),
    change=_changed,
    longest=LONGEST,
)
