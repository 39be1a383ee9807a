"""Contracts and errors as MessagePack.

All contracts form one tagged union (`supervision.contracts.contract.known`). Its decoder is built
when it is first needed, and again when a payload doesn't fit and more contracts were imported
since.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, Final

import msgspec

from supervision.contracts import Contract, known
from supervision.errors import Detail, Internal, ProtocolError, TetherError, Unfamiliar, class_of
from supervision.unreadable import UNREADABLE

encode = msgspec.msgpack.Encoder().encode


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """A TetherError on the wire."""

    code: str
    message: str
    retry_after_s: float | None = None
    param: str | None = None
    status: int = 500
    retryable: bool = False
    blames_request: bool = False
    details: dict[str, Detail] = {}

    def error(self) -> TetherError:
        """The error that was raised at the other end."""
        cls = class_of(self.code)
        error = (
            Unfamiliar(
                self.message,
                code=self.code,
                status=self.status,
                retryable=self.retryable,
                blames_request=self.blames_request,
                retry_after_s=self.retry_after_s,
                param=self.param,
            )
            if cls is None
            else cls(self.message, retry_after_s=self.retry_after_s, param=self.param)
        )
        error.details = _bounded(self.details)
        return error


_MAX_MESSAGE: Final = 2000  # characters of an error that leave the process
_MAX_DETAILS: Final = 32
_MAX_DETAIL: Final = 256  # characters of the name or the text of one
_fault_decoder = msgspec.msgpack.Decoder(Fault)
_names: tuple[type[Contract], ...] = ()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(bool)  # no contract fits it


def decode(payload: bytes | memoryview) -> Contract:
    """The contract that `payload` holds.

    Raises:
        ProtocolError: no contract of this name is imported here, or a field doesn't fit.
    """
    try:
        found: Contract = _decoder.decode(payload)
    except UNREADABLE as error:
        if not _rebuild():
            raise ProtocolError(f"not a contract that is known here: {error}") from error
    else:
        return found
    try:
        found = _decoder.decode(payload)
    except UNREADABLE as error:
        raise ProtocolError(f"not a contract that is known here: {error}") from error
    return found


def _rebuild() -> bool:
    """Builds the decoder for all contracts known by now; false if that changes nothing."""
    global _names, _decoder
    contracts = known()
    if not contracts or contracts == _names:
        return False
    union = contracts[0] if len(contracts) == 1 else reduce(or_, contracts)
    _decoder = msgspec.msgpack.Decoder(union)
    _names = contracts
    return True


def encode_error(error: BaseException) -> bytes:
    """`error` as a Fault; whatever is no TetherError becomes `internal_error` with the name of
    its class only, since a message of a library may hold what no client should see."""
    if isinstance(error, TetherError):
        fault = Fault(
            error.code,
            error.message[:_MAX_MESSAGE],
            error.retry_after_s,
            error.param,
            error.status,
            error.retryable,
            error.blames_request,
            _bounded(error.details),
        )
    else:
        fault = Fault(Internal.code, f"{type(error).__name__} in the actor that was asked")
    return encode(fault)


def _bounded(details: dict[str, Detail]) -> dict[str, Detail]:
    """The first of them, cut to their bound."""
    if not details:
        return {}
    return {
        name[:_MAX_DETAIL]: value[:_MAX_DETAIL] if isinstance(value, str) else value
        for name, value in list(details.items())[:_MAX_DETAILS]
    }


def decode_error(payload: bytes) -> TetherError:
    """The error that `encode_error` wrote; `Internal` if it can't be read."""
    try:
        fault: Fault = _fault_decoder.decode(payload)
    except UNREADABLE as error:
        return Internal(f"the peer answered with an error that can't be read: {error}")
    return fault.error()
