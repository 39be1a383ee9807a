"""Three floors, imports downwards only; pure modules are pure (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("supervision", "actors", "tether")  # from below; one imports itself and what is below it
# Within `actors` an order holds too: what stands further left, further down.
ORDER = (
    ("actors.contracts", "actors.errors", "actors.core"),
    ("actors.engines", "actors.artifacts", "actors.stores"),
)
# Packages that are imported in one place only.
AT_HOME = {
    "torch": "actors.engines",
    "transformers": "actors.engines",
    "vllm": "actors.engines",
    "obstore": "actors.artifacts",
    "thespian": "supervision",
}
# What a module whose docstring ends in "Pure." may not import: loops, sockets, SQL, processes.
IMPURE = frozenset(
    {
        "asyncio",
        "asyncpg",
        "multiprocessing",
        "obstore",
        "select",
        "selectors",
        "socket",
        "starlette",
        "subprocess",
        "thespian",
        "threading",
        "uvicorn",
        "uvloop",
    }
)
PURE_AT_LEAST = (
    75  # as many as before the floors were laid; a decision stays where it can be tested
)


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[0])


def rank(module: str) -> int:
    """Its place in the order within `actors`; the slices, one an actor, stand on top."""
    found = (at for at, prefixes in enumerate(ORDER) if any(within(module, p) for p in prefixes))
    return next(found, len(ORDER))


def modules() -> Iterator[tuple[str, Path]]:
    for package in FLOORS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(module: str, tree: ast.Module, *, is_package: bool) -> Iterator[tuple[str, int]]:
    """(imported module, line), including those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            if node.level:
                base = base[: len(base) - node.level + is_package]
                name = ".".join([*base, node.module] if node.module else base)
            else:
                name = node.module or ""
            for alias in node.names:
                deeper = f"{name}.{alias.name}"
                yield (deeper if is_module(deeper) else name), node.lineno


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def is_pure(tree: ast.Module) -> bool:
    return (ast.get_docstring(tree) or "").endswith("Pure.")


def faults(module: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    tree = ast.parse(source)
    pure = is_pure(tree)
    for target, line in imports(module, tree, is_package=is_package):
        where = f"{module}, line {line}"
        first = target.split(".")[0]
        if first in FLOORS:
            if floor(target) > floor(module):
                yield f"{where}: {first} is a floor above, and is imported from below"
            elif first == "actors" and within(module, "actors") and rank(target) > rank(module):
                yield f"{where}: within actors, {target} stands above {module}"
        elif pure and first in IMPURE:
            yield f"{where}: this module is pure, and imports {first}"
        home = AT_HOME.get(first)
        if home is not None and not within(module, home):
            yield f"{where}: {first} is imported outside {home}"


def test_imports_go_downwards_only() -> None:
    found = [
        fault
        for module, path in modules()
        for fault in faults(
            module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py"
        )
    ]
    assert not found, "\n".join(found)


def test_no_fewer_modules_are_pure_than_were() -> None:
    pure = [m for m, path in modules() if is_pure(ast.parse(path.read_text(encoding="utf-8")))]
    assert len(pure) >= PURE_AT_LEAST, f"{len(pure)} modules say that they are pure"


@pytest.mark.parametrize(
    ("module", "source", "told"),
    [
        ("supervision.x", "from actors.core import ids", "imported from below"),
        ("supervision.x", "def f():\n    import tether.http", "imported from below"),
        ("actors.gateway.x", "from tether import http", "imported from below"),
        ("actors.gateway.x", "from tether.http import server_actor", "imported from below"),
        ("actors.x", "if TYPE_CHECKING:\n    from tether.config import Config", "from below"),
        ("actors.core.x", "from actors.stores import keys", "stands above"),
        ("actors.engines.x", "from actors.worker import loader", "stands above"),
        ("actors.contracts.x", "from actors import gateway", "stands above"),
        ("actors.core.x", '"""X. Pure."""\nimport asyncio', "is pure"),
        ("supervision.policies.x", '"""X.\n\nMore. Pure.\n"""\nimport socket', "is pure"),
        ("tether.node.x", '"""X. Pure."""\ndef f():\n    from asyncpg import connect', "is pure"),
        ("actors.worker.x", "import torch", "outside actors.engines"),
        ("actors.worker.x", "import obstore", "outside actors.artifacts"),
        ("tether.http.x", "import thespian.actors", "outside supervision"),
    ],
)
def test_the_rule_sees_what_breaks_it(module: str, source: str, told: str) -> None:
    assert any(told in fault for fault in faults(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tether.http.x", "from actors.contracts import Infer\nimport supervision.errors"),
        ("actors.gateway.x", "from actors.core import ids\nfrom actors.stores import keys"),
        ("actors.gateway.x", '"""X is no Pure. one"""\nimport asyncio'),
    ],
)
def test_the_rule_lets_pass_what_it_should(module: str, source: str) -> None:
    assert not list(faults(module, source))


#: What takes long to load, and is loaded anew at every restart of a process that uses it.
HEAVY = frozenset({"asyncpg", "psutil", "redis", "torch", "transformers"})


@pytest.mark.parametrize(
    "module", ["tether.http.server_actor", "actors.worker.worker", "actors.scheduler.scheduler"]
)
def test_what_uses_no_database_loads_none(module: str) -> None:
    told = f"import {module}, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert not HEAVY & set(run.stdout.split())
