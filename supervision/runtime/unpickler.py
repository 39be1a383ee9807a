"""The system road's codec: pickle that can't run code.

Thespian's messages are pickled. What comes in may name Thespian's message classes, our
addresses, log records and a few harmless values, and nothing else: an object of any other
class can't even be looked up. A node with the capability "Allow Pickle" unpickles anything;
it exists for Thespian's own test-suite and for measuring, never for a node that serves.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Final

from supervision.errors import ProtocolError

PROTOCOL: Final = 5

# Modules of Thespian whose classes are nothing but messages and values.
_MESSAGE_MODULES: Final = frozenset(
    {
        "thespian.actors",
        "thespian.initmsgs",
        "thespian.system.logdirector",
        "thespian.system.messages.admin",
        "thespian.system.messages.convention",
        "thespian.system.messages.logcontrol",
        "thespian.system.messages.multiproc",
        "thespian.system.messages.status",
        "thespian.system.timing",
        "thespian.system.transport",
    }
)
_OTHERS: Final = frozenset(
    {
        ("supervision.runtime.address", "Address"),
        ("builtins", "complex"),
        ("builtins", "frozenset"),
        ("builtins", "object"),
        ("builtins", "range"),
        ("builtins", "set"),
        ("builtins", "slice"),
        ("collections", "OrderedDict"),
        ("copyreg", "_reconstructor"),
        ("datetime", "datetime"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("logging", "LogRecord"),
        ("thespian.system.utilis", "AssocList"),
        ("thespian.system.utilis", "StatsManager"),
    }
)
# Live classes in those modules, not values: making one opens sockets, files or processes.
_NEVER: Final = frozenset(
    {"ActorSystem", "ExternalContext", "ThespianLogForwardHandler", "ThespianLogForwarder"}
)


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OTHERS:
            return super().find_class(module, name)
        if module in _MESSAGE_MODULES and "." not in name and name not in _NEVER:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise ProtocolError(f"{module}.{name} is nothing that a system message may hold")


def dumps(message: object) -> bytes:
    return pickle.dumps(message, PROTOCOL)


def loads(payload: bytes, *, trusting: bool = False) -> Any:
    """The message that `dumps` wrote.

    Raises:
        ProtocolError: it names a class that isn't on the list, or is no pickle at all.
    """
    try:
        if trusting:
            return pickle.loads(payload)
        return _Restricted(io.BytesIO(payload)).load()
    except ProtocolError:
        raise
    except Exception as error:  # an unpickler raises whatever it stumbles over
        raise ProtocolError(f"not a message of the system: {error!r}") from error
