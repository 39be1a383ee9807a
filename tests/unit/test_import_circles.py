"""No module leads back to itself by its imports.

All imports count, those inside functions and under TYPE_CHECKING too: a circle that Python bears
is one for whoever reads it. `from package import name` is an import of the module `name` if there
is one, else of the package itself, so an `__init__` that hands on what its modules define stands
in a circle with each module that asks it for something.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from actors.core import engine_kinds

ROOT = Path(__file__).parents[2]

PACKAGES = ("supervision", "actors", "tether", "bench")

KNOWN = {
    # forks and children find its classes under the name of the module, not under `__main__`
    ("bench.thespian_suite",),
}


def modules(root: Path, package: str) -> dict[str, Path]:
    """All modules of `package` by their full names, those of packages in it included."""
    found = {}
    for path in sorted(root.joinpath(*package.split(".")).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(
    module: str, source: str, *, is_package: bool, known: Mapping[str, object]
) -> set[str]:
    """Which of the `known` modules the `source` of `module` imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            if node.level:
                base = base[: len(base) - node.level + is_package]
                start = ".".join([*base, node.module] if node.module else base)
            else:
                start = node.module or ""
            deeper = {f"{start}.{alias.name}" for alias in node.names}
            names |= {name if name in known else start for name in deeper}
    return names & known.keys()


def graph(root: Path, package: str) -> dict[str, set[str]]:
    """Which modules of `package` each of them imports."""
    known = modules(root, package)
    return {
        module: imported(
            module,
            path.read_text(encoding="utf-8"),
            is_package=path.name == "__init__.py",
            known=known,
        )
        for module, path in known.items()
    }


def circles(graph: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """The strongly connected components of more than one module, or of one that imports itself
    (Tarjan 1972, "Depth-first search and linear graph algorithms"), without recursion."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: dict[str, None] = {}
    found: list[tuple[str, ...]] = []

    def enter(node: str) -> tuple[str, Iterator[str]]:
        number[node] = low[node] = len(number)
        stack[node] = None
        return node, iter(sorted(graph[node]))

    for start in sorted(graph):
        path = [enter(start)] if start not in number else []
        while path:
            node, left = path[-1]
            for other in left:
                if other not in number:
                    path.append(enter(other))
                    break
                if other in stack:
                    low[node] = min(low[node], number[other])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == number[node]:
                    order = list(stack)
                    component = order[order.index(node) :]
                    for one in component:
                        del stack[one]
                    if len(component) > 1 or node in graph[node]:
                        found.append(tuple(sorted(component)))
    return sorted(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_leads_back_to_itself(package: str) -> None:
    assert len(modules(ROOT, package)) > 1, f"there is no package {package}"
    assert [circle for circle in circles(graph(ROOT, package)) if circle not in KNOWN] == []


def test_engines_are_straight_though_the_table_names_them() -> None:
    """The factory imports what the rows name, which no reader of its source would see."""
    links = graph(ROOT, "actors.engines")
    named = {name for kind in engine_kinds.KINDS for name in (kind.module, kind.home) if name}
    links["actors.engines.factory"] |= {f"actors.engines.{name}" for name in named}
    assert circles(links) == []


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a": "import p.b", "b": "import os", "c": "from p import a, b"}, []),
        ({"a": "import p.b", "b": "def f():\n    from p.a import x"}, [("p.a", "p.b")]),
        (
            {"a": "from p import b", "b": "if TYPE_CHECKING:\n    from .a import X"},
            [("p.a", "p.b")],
        ),
        ({"__init__": "from p.a import X", "a": "from p import y"}, [("p", "p.a")]),
        ({"__init__": "from .a import X", "a": "from p import b", "b": ""}, []),
        (
            {"a": "from p.b import x", "b": "import p.c", "c": "from . import a"},
            [("p.a", "p.b", "p.c")],
        ),
        (
            {"a": "import p.b", "b": "import p.a", "c": "import p.d, p.a", "d": "import p.c"},
            [("p.a", "p.b"), ("p.c", "p.d")],
        ),
        ({"a": "from p.a import x"}, [("p.a",)]),
        (
            {"q/__init__": "", "q/b": "from ..a import x", "a": "from p.q import b"},
            [("p.a", "p.q.b")],
        ),
    ],
)
def test_a_planted_circle_is_seen(
    tmp_path: Path, sources: dict[str, str], expected: list[tuple[str, ...]]
) -> None:
    for name, source in sources.items():
        path = tmp_path / "p" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    assert circles(graph(tmp_path, "p")) == expected
