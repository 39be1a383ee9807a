"""Every contract that anybody answers has an audience, said where its handler stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from bench.contracts import DOCS, PACKAGES, ROOT, declared, written
from supervision.contracts import known


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def undeclared(where: Path, module: ast.Module) -> list[str]:
    """The handlers of a module that don't say of whom they take what they take."""
    return [
        f"{where}:{node.lineno}"
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr) == "on"
        and not any(keyword.arg == "of" for keyword in node.keywords)
    ]


def test_every_handler_says_of_whom_it_takes_what_it_takes() -> None:
    assert not [line for where, module in sources() for line in undeclared(where, module)]


def test_one_that_does_not_say_it_is_seen() -> None:
    planted = ast.parse("class A:\n    @on(Reserve)\n    def reserve(self, msg, sender): ...\n")
    assert undeclared(Path("a.py"), planted) == ["a.py:2"]


def test_the_table_is_what_the_code_says() -> None:
    text = DOCS.read_text()
    assert written(text) == text, "scripts/bench contracts --write"
    assert {one.contract for one in declared()} <= set(known())


def test_nothing_takes_requests_past_the_dispatcher() -> None:
    """Whoever takes frames by itself would take them of everybody."""
    found = {
        str(where)
        for where, module in sources()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute)
        and node.attr in ("on_request", "receive")
        and isinstance(node.ctx, ast.Store)
    }
    assert found == {"supervision/runtime/connections.py", "supervision/runtime/dispatch.py"}
