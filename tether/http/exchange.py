"""One inference request over HTTP, in any API's format: the hot path.

A plain ASGI endpoint. The key comes first: before it is found to be good, no slot is taken and no
byte of a body is read. An error before the first byte becomes an HTTP status; after it, the last
event of a stream that has no good end. Nothing is sent before the gateway has answered, so a
request that is refused gets its true status even if it asked for a stream.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import perf_counter

from starlette.types import Receive, Scope, Send

from actors.contracts import Completed, Infer
from supervision.errors import Cancelled, Draining, Internal, TetherError, Unauthenticated
from supervision.telemetry.bounded_log import BoundedLog
from tether.http import errors, metrics
from tether.http.admission import DoorAdmission
from tether.http.answer_headers import answer_headers
from tether.http.api_format import ApiFormat, Encoder
from tether.http.bodies import LARGE, Bodies, BodyShare
from tether.http.caller import HttpCaller, check_once, read_caller
from tether.http.cancellation import Cancellation
from tether.http.doorkeeper import Doorkeeper
from tether.http.envelope import Envelope
from tether.http.fingerprint import fingerprint
from tether.http.gateways import Batches, Gateways
from tether.http.identity import new_traceparent
from tether.http.options import DoorOptions
from tether.http.storage import Storage

LAST_WORDS_S = 2.0

heard = BoundedLog(__name__)


class Exchange:
    """The endpoint of one API format."""

    def __init__(
        self,
        api_format: ApiFormat,
        gateways: Gateways,
        options: DoorOptions,
        *,
        doorkeeper: Doorkeeper,
        admission: DoorAdmission,
        bodies: Bodies,
        storage: Storage,
    ) -> None:
        self._api_format = api_format
        self._gateways = gateways
        self._doorkeeper = doorkeeper
        self._bodies = bodies
        self._admission = admission
        self._storage = storage
        self._options = options
        self._first_chunk = metrics.http_first_chunk_seconds.labels(api_format.route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        envelope: Envelope = scope["tether"]
        envelope.route = self._api_format.route
        await self._answer(scope, envelope, receive, _Reply(send))

    async def _answer(
        self, scope: Scope, envelope: Envelope, receive: Receive, reply: _Reply
    ) -> None:
        """Whatever happens is said to the client, if it takes that within `LAST_WORDS_S`: one
        that doesn't read keeps no place here beyond its deadline."""
        why: TetherError
        try:
            await self._run(scope, envelope, receive, reply)
            return
        except Cancelled as error:
            metrics.http_hangups.inc()
            why = error
        except TetherError as error:
            why = self._storage.explained(error)
        except asyncio.CancelledError:
            # The server's shutdown ran out of patience. The answer is ended here, as broken.
            why = Draining(
                "the server stopped before the answer was complete; nothing of it is billed, send "
                "the request again"
            )
        except Exception:
            heard.exception("a request failed", "", request_id=envelope.request_id)
            why = Internal(f"an error of ours; its id is {envelope.request_id}")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await reply.fail(why)
        finally:
            del why  # its traceback holds this frame: a cycle of all that the request had

    async def _run(self, scope: Scope, envelope: Envelope, receive: Receive, reply: _Reply) -> None:
        options, admission = self._options, self._admission
        self._storage.check()
        admission.check()
        caller = read_caller(envelope.headers, options)
        if caller.retry_token:
            check_once(scope["headers"])
        with Cancellation(receive, caller.deadline_s, options.body_timeout_s) as line:
            who = await self._doorkeeper.admit(scope, caller.credential)
            admission.enter()
            try:
                with self._bodies.of(who.tenant_id) as share:
                    infer, encoder = await self._read(envelope, receive, caller, line, share)
                    reply.encoder = encoder
                    batches = self._gateways.answer(infer, line.remaining_s)
                    try:
                        if infer.stream:
                            await self._stream(envelope, reply, encoder, batches)
                        else:
                            await self._whole(reply, encoder, batches)
                    except asyncio.CancelledError as cancelled:
                        # The gateway shall hear who has cancelled, also while a client reads.
                        with suppress(asyncio.CancelledError, StopAsyncIteration):
                            await batches.athrow(cancelled)
                        raise
                    finally:
                        await batches.aclose()
            except Unauthenticated:
                self._doorkeeper.forget(caller.credential)
                raise
            finally:
                admission.leave()

    async def _read(
        self,
        envelope: Envelope,
        receive: Receive,
        caller: HttpCaller,
        line: Cancellation,
        share: BodyShare,
    ) -> tuple[Infer, Encoder]:
        """What is asked for, and how its answer is said."""
        headers, bodies = envelope.headers, self._bodies
        body = await bodies.read(receive, headers, self._options.max_body_bytes, share)
        line.listening()
        if len(body) > LARGE:
            await bodies.turn()
        order = self._api_format.read(body, headers, caller, envelope.id)
        if order.trace_id and b"traceparent" not in headers:
            envelope.traceparent = new_traceparent(order.trace_id)
        token = order.retry_token or caller.retry_token
        endpoint = self._api_format.endpoint
        infer = Infer(
            correlation_id=order.correlation_id or envelope.request_id,
            credential=caller.credential,
            model_ref=order.model_ref,
            input=order.input,
            sampling=order.sampling,
            retry_token=token or envelope.id,
            explicit_token=bool(token),
            # a token that was made up here comes with no other body
            fingerprint=order.fingerprint or (fingerprint(body, endpoint) if token else b""),
            deadline_s=line.remaining_s(),
            stream=order.stream,
            traceparent=envelope.traceparent,
            endpoint=endpoint,
            join=caller.join,
            max_tokens_given=order.max_tokens_given,
        )
        return infer, order.encoder

    async def _stream(
        self, envelope: Envelope, reply: _Reply, encoder: Encoder, batches: Batches
    ) -> None:
        async for batch in batches:
            if not reply.started:
                reply.headers = answer_headers(batch[0])
            frames: list[bytes] = []
            for item in batch:
                first = not (reply.started or frames)
                if isinstance(item, Completed):
                    frames.append(encoder.end(item, first=first))
                    await reply.end(b"".join(frames))
                    return
                frames.append(encoder.part(item, first=first))
            if not reply.started:
                self._first_chunk.observe(perf_counter() - envelope.began)
            await reply.more(b"".join(frames) if len(frames) > 1 else frames[0])

    async def _whole(self, reply: _Reply, encoder: Encoder, batches: Batches) -> None:
        async for batch in batches:
            item = batch[-1]
            if not isinstance(item, Completed):
                raise Internal("a gateway streamed an answer that was asked for as a whole")
            reply.headers = answer_headers(item)
            await reply.whole(encoder.whole(item))
            return


class _Reply:
    """The answer as far as it has gone."""

    __slots__ = ("_send", "encoder", "ended", "headers", "started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.ended = False
        self.encoder: Encoder | None = None
        self.headers: errors.Headers = []
        """Of a good answer, beside those that all have."""

    async def whole(self, content: bytes) -> None:
        """All of an answer that is not streamed."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            (b"cache-control", b"no-store"),
            *self.headers,
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
        if self.started and self.encoder is not None:
            metrics.http_streams_broken.labels(error.code).inc()
            await self.end(self.encoder.broken(error))
            return
        status, headers, content = errors.answer(error)
        self.started = self.ended = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})

    async def _begin(self) -> None:
        encoder = self.encoder
        assert encoder is not None
        self.started = True
        headers = [
            (b"content-type", encoder.content_type),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),  # nginx would hold the events back
            *self.headers,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
