"""Thespian's own messages on the wire: which there are, what they hold, and who may say them.

A message is MessagePack (`supervision.runtime.packed`): an array of the name of its class and of
its fields, in the order of its row. What has no row can't be said: no source code, nothing that
opens a file. Plain Thespian actors may send plain values to one another, under the name `""`. A
message is made by its row alone: the attributes that are set are those of the row, on a fresh
instance, so nothing that is said changes a class.

Who adds a message of a later Thespian adds a row, and raises the versions in
`supervision.runtime.wire`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from thespian.actors import (
    ActorAddress,
    ActorExitRequest,
    ActorSystemConventionUpdate,
    ActorSystemMessage,
    ChildActorExited,
    DeadEnvelope,
    PoisonMessage,
)
from thespian.system.logdirector import LogAggregator, LoggerExitRequest
from thespian.system.messages.admin import (
    CapabilityUpdate,
    HandleDeadLetters,
    NewCapabilities,
    NotifyOnSourceAvailability,
    PendingActor,
    PendingActorResponse,
    QueryAck,
    QueryExists,
    SystemShutdown,
    SystemShutdownCompleted,
)
from thespian.system.messages.convention import (
    ConventionDeRegister,
    ConventionInvite,
    ConventionRegister,
    NotifyOnSystemRegistration,
)
from thespian.system.messages.multiproc import EndpointConnected, LoggerConnected

from supervision.errors import ProtocolError
from supervision.runtime.packed import pack, unpack
from supervision.runtime.system_fields import (
    CutField,
    FlagField,
    Kind,
    ListField,
    MapField,
    MaybeField,
    NoField,
    NumberField,
    PlaceField,
    PlainField,
    RealField,
    TextField,
    plain_address,
)
from supervision.runtime.system_senders import (
    Check,
    Others,
    is_sender,
    not_of_receiver,
    nothing_in,
    of_sender,
)

MAX_TRIED: Final = 256  # nodes that couldn't start an actor; a convention has no more
MAX_CAPABILITIES: Final = 1024
PLAIN: Final = ""


class InnerField:
    """Another message, which holds none itself."""

    def put(self, value: Any) -> object:
        return _said(value, inner=True)

    def take(self, packed: Any) -> Any:
        return _made(packed, inner=True)


class MessageRow(msgspec.Struct, frozen=True):
    """One type: its fields by the names of the attributes, and who at other nodes may say it, if
    all `checks` find nothing. Processes of the own node may."""

    cls: type
    fields: Mapping[str, Kind]
    others: Others = Others.NONE
    checks: tuple[Check, ...] = ()

    @property
    def holds_another(self) -> bool:
        return any(isinstance(kind, InnerField) for kind in self.fields.values())


_PLACE: Final = PlaceField()
_MAYBE_PLACE: Final = MaybeField(_PLACE)
_FLAG: Final = FlagField()
_NAME: Final = MaybeField(TextField(256))
_WORD: Final = MaybeField(CutField(256))
_SENTENCE: Final = MaybeField(CutField(8192))
_INSTANCE: Final = NumberField(0, 2**31)
_CAPABILITIES: Final = MapField(MAX_CAPABILITIES)

ROWS: Final = (
    # ---- from node to node: actors that are placed at another one, and conventions
    MessageRow(ActorExitRequest, {"_recursive": _FLAG}, Others.GUARDIAN),
    MessageRow(ChildActorExited, {"_childAddr": _PLACE}, Others.ADMINS, (of_sender("_childAddr"),)),
    MessageRow(
        PendingActor,
        {
            "actorClassName": TextField(256),  # the receiver starts what its list allows
            "forActor": _MAYBE_PLACE,
            "instanceNum": _INSTANCE,
            "targetActorReq": PlainField(),
            "globalName": _NAME,
            "sourceHash": NoField(),
            "alreadyTried": ListField(_PLACE, MAX_TRIED),
            "asked_at": _MAYBE_PLACE,  # see `placements.guardian_of`
        },
        Others.ADMINS,
        (not_of_receiver("forActor"), nothing_in("globalName")),
    ),
    MessageRow(
        PendingActorResponse,
        {
            "forActor": _MAYBE_PLACE,
            "instanceNum": _INSTANCE,
            "errorCode": MaybeField(NumberField(0, 2**16)),
            "actualAddress": _MAYBE_PLACE,
            "globalName": _NAME,
            "errorStr": _SENTENCE,
        },
        Others.ADMINS,
        (of_sender("actualAddress"), nothing_in("globalName")),
    ),
    MessageRow(
        ConventionRegister,
        {
            "adminAddress": _PLACE,
            "capabilities": _CAPABILITIES,
            "firstTime": _FLAG,
            "preRegister": _FLAG,
        },
        Others.ADMINS,
        (is_sender("adminAddress"), nothing_in("preRegister")),
    ),
    MessageRow(
        ConventionDeRegister,
        {"adminAddress": _PLACE, "preRegistered": _FLAG},
        Others.ADMINS,
        (is_sender("adminAddress"), nothing_in("preRegistered")),
    ),
    # ---- within a node
    MessageRow(ConventionInvite, {}),
    MessageRow(QueryExists, {}),
    MessageRow(
        QueryAck,
        {"systemName": _WORD, "systemVersion": PlainField(), "inShutdown": _FLAG},
    ),
    MessageRow(SystemShutdown, {}),
    MessageRow(SystemShutdownCompleted, {}),
    MessageRow(EndpointConnected, {"childInstance": _INSTANCE}),
    MessageRow(LoggerConnected, {}),
    MessageRow(LoggerExitRequest, {}),
    MessageRow(LogAggregator, {"aggregatorAddress": _MAYBE_PLACE}),
    MessageRow(
        logging.LogRecord,
        {
            "name": CutField(256),
            "levelno": NumberField(0, 10_000),
            "levelname": CutField(64),
            "msg": CutField(32_768),
            "args": NoField(),
            "exc_info": NoField(),
            "exc_text": MaybeField(CutField(32_768)),
            "stack_info": MaybeField(CutField(32_768)),
            "pathname": CutField(1024),
            "filename": CutField(256),
            "module": CutField(256),
            "lineno": NumberField(0, 2**31),
            "funcName": _WORD,
            "created": RealField(0.0, 2.0**33),  # until the year 2242
            "msecs": RealField(0.0, 1000.0),
            "relativeCreated": RealField(-(2.0**43), 2.0**43),
            "thread": MaybeField(NumberField(0, 2**63)),
            "threadName": _WORD,
            "process": MaybeField(NumberField(0, 2**31)),
            "processName": _WORD,
            "actorAddress": _WORD,
        },
    ),
    MessageRow(
        CapabilityUpdate, {"capabilityName": TextField(256), "capabilityValue": PlainField()}
    ),
    MessageRow(NewCapabilities, {"newCapabilities": _CAPABILITIES, "adminAddress": _PLACE}),
    MessageRow(HandleDeadLetters, {"handlerAddr": _PLACE, "enableHandler": _FLAG}),
    MessageRow(DeadEnvelope, {"deadAddress": _PLACE, "deadMessage": InnerField()}),
    MessageRow(PoisonMessage, {"_poison": InnerField(), "_details": _SENTENCE}),
    MessageRow(NotifyOnSystemRegistration, {"handlerAddr": _PLACE, "enableNotification": _FLAG}),
    MessageRow(NotifyOnSourceAvailability, {"notificationAddress": _PLACE, "enable": _FLAG}),
    MessageRow(
        ActorSystemConventionUpdate,
        {
            "_remoteAdminAddress": _PLACE,
            "_capabilities": MaybeField(_CAPABILITIES),
            "_added": _FLAG,
        },
    ),
)

_BY_CLASS: Final = {row.cls: row for row in ROWS}
_BY_NAME: Final = {row.cls.__name__: row for row in ROWS}
_UNSAID: Final = MessageRow(object, {})  # a plain value


def row_of(message: object) -> MessageRow:
    """The row of `message`; of a plain value one that no other node may say."""
    if isinstance(message, logging.LogRecord):
        return _BY_CLASS[logging.LogRecord]  # whatever class a library has set for records
    return _BY_CLASS.get(type(message), _UNSAID)


def encode(message: object) -> bytes:
    """`message` as bytes.

    Raises:
        ProtocolError: it has no row, or a field holds what the row doesn't allow.
        CannotPickleAddress: it speaks of a child that isn't up yet.
    """
    return pack(_said(message, inner=False), _translated)


def decode(payload: bytes) -> Any:
    """The message that `encode` wrote.

    Raises:
        ProtocolError: it is none.
    """
    return _made(unpack(payload, ActorAddress), inner=False)


def _said(message: Any, *, inner: bool) -> list[object]:
    row = row_of(message)
    if row is _UNSAID:
        if isinstance(message, ActorSystemMessage):
            raise ProtocolError(f"a {type(message).__name__} is said to no other process")
        return [PLAIN, message]
    _alone(row, inner)
    said: list[object] = [row.cls.__name__]
    for name, kind in row.fields.items():
        try:
            said.append(kind.put(getattr(message, name, None)))
        except ValueError as error:
            raise _wrong(row, name, error) from error
    return said


def _made(said: Any, *, inner: bool) -> Any:
    if type(said) is not list or not said or type(said[0]) is not str:
        raise ProtocolError("a system message is a list that begins with a name")
    name, *values = said
    if name == PLAIN:
        if len(values) != 1:
            raise ProtocolError(f"a plain value is one, and not {len(values)}")
        return values[0]
    row = _BY_NAME.get(name)
    if row is None:
        raise ProtocolError(f"{name[:64]!r} is the name of no system message")
    _alone(row, inner)
    if len(values) != len(row.fields):
        raise ProtocolError(f"a {name} has {len(row.fields)} fields, and not {len(values)}")
    made: dict[str, object] = {}
    for (field, kind), value in zip(row.fields.items(), values, strict=True):
        try:
            made[field] = kind.take(value)
        except ValueError as error:
            raise _wrong(row, field, error) from error
    message: Any = object.__new__(row.cls)
    vars(message).update(made)
    return message


def _alone(row: MessageRow, inner: bool) -> None:
    if inner and row.holds_another:
        raise ProtocolError(f"a {row.cls.__name__} is in no other message")


def _wrong(row: MessageRow, field: str, error: ValueError) -> ProtocolError:
    return ProtocolError(f"{field.lstrip('_')} of a {row.cls.__name__} {error}")


def _translated(found: object) -> object:
    if not isinstance(found, ActorAddress):
        return found
    try:
        return plain_address(found)
    except ValueError as error:
        raise ProtocolError(f"an address in a system message {error}") from error
