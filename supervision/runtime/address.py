"""The address of an actor or an endpoint: a value, written `node/name/port`.

`node` is the id that the greeting of every connection carries and, between nodes, the one
that a certificate is checked against. `name` is the file name of the Unix socket below the
node's folder in the run directory; it begins with the pid of its process, except for the
Admin's, which is `admin`. `port` is the Admin port of the node for its Admin, else 0.
"""

from __future__ import annotations

import re
from typing import Any, Final

ADMIN: Final = "admin"
_PART: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_CACHE_SIZE: Final = 4096


class Address:
    """A frozen, hashable, interned-when-parsed value. It serves as Thespian's address details
    as well, which is why equality with any other type is plainly false."""

    __slots__ = ("_hash", "_text", "name", "node", "port")

    node: str
    name: str
    port: int
    _text: str
    _hash: int

    def __init__(self, node: str, name: str, port: int = 0) -> None:
        """
        Raises:
            ValueError: a part has a character that has no place in a path, or the port is
                out of range.
        """
        for part in (node, name):
            if not _PART.fullmatch(part) or part in {".", ".."}:
                raise ValueError(
                    f"{part!r} is no part of an address: use 1 to 64 letters, digits or _.:-"
                )
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} of an address must lie in 0..65535")
        text = f"{node}/{name}/{port}"
        put = object.__setattr__
        put(self, "node", node)
        put(self, "name", name)
        put(self, "port", port)
        put(self, "_text", text)
        put(self, "_hash", hash(text))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"an Address is frozen; {name} can't be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an Address is frozen; {name} can't be deleted")

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that `str()` wrote as `text`; equal texts mostly give one object.

        Raises:
            ValueError: `text` is not of the form node/name/port.
        """
        found = _parsed.get(text)
        if found is None:
            parts = text.split("/")
            if (
                len(parts) != 3
                or not (parts[2].isascii() and parts[2].isdecimal())
                or len(parts[2]) > 5
            ):
                raise ValueError(f"{text[:200]!r} is no address: write node/name/port")
            found = cls(parts[0], parts[1], int(parts[2]))
            if len(_parsed) >= _CACHE_SIZE:
                _parsed.clear()
            _parsed[text] = found
        return found

    @classmethod
    def admin(cls, node: str, port: int) -> Address:
        """The address of the Admin of `node`."""
        return cls(node, ADMIN, port)

    @property
    def pid(self) -> int:
        """The process id that the name begins with; 0 for an Admin."""
        head = self.name.partition("-")[0]
        return int(head) if head.isdecimal() else 0

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is Address and self._text == other._text)

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Address({self._text})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Address, (self.node, self.name, self.port))


_parsed: dict[str, Address] = {}


def address_of(where: Address | str | Any) -> Address:
    """The address that an Address, its text or Thespian's ActorAddress stands for.

    Raises:
        ValueError: the text is none.
        TypeError: it is something else.
    """
    if type(where) is Address:
        return where
    if isinstance(where, str):
        return Address.parse(where)
    details = getattr(where, "addressDetails", None)
    if isinstance(details, Address):
        return details
    raise TypeError(f"{where!r} is no address")
