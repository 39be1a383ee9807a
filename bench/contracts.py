"""`scripts/bench contracts [--write]`: who may say which contract to whom, as the code declares it.

The table is made of what stands at the handlers (`supervision.runtime.handlers.on`). With --write
it replaces the one in docs/security.md, which a test compares; without, it is printed.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from actors.core.node_roles import CONTROL, DOOR, WORKER, Role
from supervision.runtime.handlers import audiences_of
from supervision.security.audience import NODE, OPERATOR, OWN, PLACER, Audience

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs" / "security.md"
PACKAGES: Final = ("supervision", "actors", "tether")
BEGIN: Final = "<!-- contracts: made by `scripts/bench contracts --write` -->"
END: Final = "<!-- /contracts -->"
#: Who a peer can be, by the column of the table; a stranger is nobody.
PEERS: Final = {
    "own node": OWN,
    "placed it": PLACER | NODE,
    DOOR: Role.DOOR | NODE,
    CONTROL: Role.CONTROL | NODE,
    WORKER: Role.WORKER | NODE,
    "operator": OPERATOR,
    "stranger": Audience(0),
}


class Declared(NamedTuple):
    """`contract` is taken by the class `by` of the module `module`, of `audience`."""

    contract: type
    by: type
    audience: Audience


def declared() -> list[Declared]:
    """What all handlers of the three packages declare, by module, class and contract."""
    found = []
    for name in sorted(_modules()):
        module = importlib.import_module(name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != name:
                continue
            for method in vars(cls).values():
                found += [Declared(c, cls, of) for c, of in audiences_of(method).items()]
    floors = {package: number for number, package in enumerate(PACKAGES)}
    return sorted(
        found,
        key=lambda one: (
            floors[one.by.__module__.partition(".")[0]],
            one.by.__module__,
            one.by.__name__,
            one.contract.__name__,
        ),
    )


def _modules() -> Iterator[str]:
    """Those that mark handlers."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if "@on(" in path.read_text():
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


def table() -> str:
    """All contracts by all peers, in Markdown."""
    heads = ("contract", "answered by", *PEERS)
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * 2}{':-:|' * len(PEERS)}"]
    for one in declared():
        cells = ["yes" if one.audience.admits(peer.mask) else "-" for peer in PEERS.values()]
        lines.append(f"| `{one.contract.__name__}` | `{one.by.__name__}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def written(text: str) -> str:
    """`text` of the document with the present table in place of its own.

    Raises:
        ValueError: it has no place for one.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{DOCS} has not one line each of {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    """Print the table, or write it."""
    if "--write" in sys.argv[1:]:
        DOCS.write_text(written(DOCS.read_text()))
    else:
        print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
