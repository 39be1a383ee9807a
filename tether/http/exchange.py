"""One inference request over HTTP, in any dialect: the hot path.

A plain ASGI endpoint. An error before the first byte becomes an HTTP status; after it, the last
event of a stream that has no good end. Nothing is sent before the gateway has answered, so a
request that is refused gets its true status even if it asked for a stream.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from hashlib import blake2b
from time import perf_counter

from starlette.types import Receive, Scope, Send

from actors.contracts import Completed, Infer
from supervision.errors import Cancelled, Draining, Internal, TetherError
from supervision.telemetry import logs
from tether.http import errors, metrics
from tether.http.admission import DoorAdmission
from tether.http.api_format import ApiFormat, Encoder
from tether.http.body import read_body
from tether.http.caller import read_caller
from tether.http.cancellation import Cancellation
from tether.http.envelope import Envelope
from tether.http.gateways import Batches, Gateways
from tether.http.identity import new_traceparent
from tether.http.options import DoorOptions
from tether.http.storage import Storage

LAST_WORDS_S = 2.0

log = logs.get(__name__)


class Exchange:
    """The endpoint of one dialect."""

    def __init__(
        self,
        dialect: ApiFormat,
        gateways: Gateways,
        admission: DoorAdmission,
        storage: Storage,
        options: DoorOptions,
    ) -> None:
        self._dialect = dialect
        self._gateways = gateways
        self._admission = admission
        self._storage = storage
        self._options = options
        self._first_chunk = metrics.http_first_chunk_seconds.labels(dialect.route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        envelope: Envelope = scope["tether"]
        envelope.route = self._dialect.route
        reply = _Reply(send)
        admission = self._admission
        try:
            self._storage.check()
            admission.enter()
        except TetherError as error:
            await reply.fail(error)
            return
        try:
            await self._answer(envelope, receive, reply)
        finally:
            admission.leave()

    async def _answer(self, envelope: Envelope, receive: Receive, reply: _Reply) -> None:
        """Whatever happens is said to the client, if it takes that within `LAST_WORDS_S`: one
        that doesn't read keeps no place here beyond its deadline."""
        why: TetherError
        try:
            await self._run(envelope, receive, reply)
            return
        except Cancelled as error:
            metrics.http_hangups.inc()
            why = error
        except TetherError as error:
            why = self._storage.explained(error)
        except asyncio.CancelledError:
            # The server's shutdown ran out of patience. The answer is ended here, as broken.
            why = Draining("the server stopped before the answer was complete")
        except Exception:
            log.exception("a request failed", request_id=envelope.request_id)
            why = Internal(f"an error of ours; its id is {envelope.request_id}")
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await reply.fail(why)

    async def _run(self, envelope: Envelope, receive: Receive, reply: _Reply) -> None:
        headers, options = envelope.headers, self._options
        caller = read_caller(headers, options)
        with Cancellation(receive, caller.deadline_s, options.body_timeout_s) as line:
            body = await read_body(receive, headers, options.max_body_bytes)
            line.listening()
            order = self._dialect.read(body, headers, caller, envelope.id)
            reply.voice = order.voice
            if order.trace_id and b"traceparent" not in headers:
                envelope.traceparent = new_traceparent(order.trace_id)
            token = order.retry_token or caller.retry_token
            infer = Infer(
                correlation_id=order.correlation_id or envelope.request_id,
                credential=caller.credential,
                model_ref=order.model_ref,
                input=order.input,
                sampling=order.sampling,
                retry_token=token or envelope.id,
                explicit_token=bool(token),
                fingerprint=order.fingerprint or blake2b(body, digest_size=32).digest(),
                deadline_s=line.remaining_s(),
                stream=order.stream,
                traceparent=envelope.traceparent,
            )
            batches = self._gateways.answer(infer, line.remaining_s)
            try:
                if order.stream:
                    await self._stream(envelope, reply, order.voice, batches)
                else:
                    await self._whole(reply, order.voice, batches)
            finally:
                await batches.aclose()

    async def _stream(
        self, envelope: Envelope, reply: _Reply, voice: Encoder, batches: Batches
    ) -> None:
        async for batch in batches:
            frames: list[bytes] = []
            for item in batch:
                first = not (reply.started or frames)
                if isinstance(item, Completed):
                    frames.append(voice.end(item, first=first))
                    await reply.end(b"".join(frames))
                    return
                frames.append(voice.part(item, first=first))
            if not reply.started:
                self._first_chunk.observe(perf_counter() - envelope.began)
            await reply.more(b"".join(frames) if len(frames) > 1 else frames[0])

    async def _whole(self, reply: _Reply, voice: Encoder, batches: Batches) -> None:
        async for batch in batches:
            item = batch[-1]
            if not isinstance(item, Completed):
                raise Internal("a gateway streamed an answer that was asked for as a whole")
            await reply.whole(voice.whole(item))
            return


class _Reply:
    """The answer as far as it has gone."""

    __slots__ = ("_send", "ended", "started", "voice")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.ended = False
        self.voice: Encoder | None = None

    async def whole(self, content: bytes) -> None:
        """All of an answer that is not streamed."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            (b"cache-control", b"no-store"),
        ]
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self.ended = True
        await self._send({"type": "http.response.body", "body": content})

    async def more(self, content: bytes) -> None:
        """Some of a stream; the head goes out before the first of it."""
        if not self.started:
            await self._begin()
        if content:
            await self._send({"type": "http.response.body", "body": content, "more_body": True})

    async def end(self, content: bytes) -> None:
        """The last of a stream."""
        if not self.started:
            await self._begin()
        self.ended = True
        await self._send({"type": "http.response.body", "body": content})

    async def fail(self, error: TetherError) -> None:
        """Says the error: by its status, or in a stream that has begun by a last event."""
        if self.ended:
            return
        if self.started and self.voice is not None:
            metrics.http_streams_broken.labels(error.code).inc()
            await self.end(self.voice.broken(error))
            return
        status, headers, content = errors.answer(error)
        self.started = self.ended = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})

    async def _begin(self) -> None:
        voice = self.voice
        assert voice is not None
        self.started = True
        headers = [
            (b"content-type", voice.content_type),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),  # nginx would hold the events back
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
