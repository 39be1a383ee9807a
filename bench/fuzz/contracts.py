"""Contracts of every kind, as actors read them."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import msgspec
from msgspec import inspect

import actors
import supervision
from bench.fuzz.mutation import packed_changed
from bench.fuzz.target import Target
from supervision.contracts import known
from supervision.errors import ProtocolError
from supervision.runtime import codec

GROWTH = 64  # the widest struct that a few bytes can be is 34 times as large as they are
SLACK = 16_384

for package in (supervision, actors):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if ".contracts" in module.name:
            importlib.import_module(module.name)


def example(kind: inspect.Type) -> Any:
    """A value of the type, as it is written."""
    match kind:
        case inspect.UnionType():
            return example(next(t for t in kind.types if not isinstance(t, inspect.NoneType)))
        case inspect.StructType():
            tag = [] if kind.tag is None else [kind.tag]
            return [*tag, *(example(field.type) for field in kind.fields)]
        case inspect.TupleType():
            return [example(one) for one in kind.item_types]
        case inspect.VarTupleType() | inspect.ListType() | inspect.FrozenSetType():
            return [example(kind.item_type)]
        case inspect.DictType():
            return {example(kind.key_type): example(kind.value_type)}
        case inspect.EnumType():
            return next(iter(kind.cls)).value
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.BytesType():
            return b"bytes"
        case inspect.StrType():
            return "n1/12-ab/0"
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 3
        case inspect.FloatType():
            return 1.5
        case _:
            return None


def read(data: bytes) -> object:
    return codec.decode(data)


TARGET = Target(
    name="contracts",
    read=read,
    seeds=tuple(
        msgspec.msgpack.encode(example(kind)) for kind in inspect.multi_type_info(list(known()))
    ),
    growth=GROWTH,
    slack=SLACK,
    ours=(ProtocolError,),
    classes=known(),
    change=packed_changed,
)
