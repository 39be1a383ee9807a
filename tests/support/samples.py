"""A sample of any contract: its required fields filled in with the least that their types allow."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import inspect

Struct = TypeVar("Struct", bound=msgspec.Struct)


def sample(cls: type[Struct]) -> Struct:
    """One that travels; what it says makes no sense."""
    required = (field for field in msgspec.structs.fields(cls) if field.required)
    return cls(**{field.name: _value(inspect.type_info(field.type)) for field in required})


def _value(kind: inspect.Type) -> Any:
    match kind:
        case inspect.StructType():
            return sample(kind.cls)
        case inspect.EnumType():
            return next(iter(kind.cls))
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.UnionType():
            return _value(kind.types[0])
        case inspect.VarTupleType() | inspect.TupleType():
            return ()
        case inspect.IntType():
            return kind.ge or 1
        case inspect.FloatType():
            return 1.0
        case inspect.StrType():
            return "x"
        case inspect.BytesType():
            return b"x"
        case inspect.BoolType():
            return False
        case inspect.DictType():
            return {}
        case _:
            raise NotImplementedError(f"no sample of {kind}")
