"""Imports go downwards only, and Thespian stays where it belongs (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("tether", "actors", "supervision")

# The first prefix that fits decides the layer; a module may import from its own layer (and, of
# its own package, anything) and from layers below.
LAYERS: tuple[tuple[str, int], ...] = (
    ("tether.cli", 6),
    ("tether.node", 6),
    ("tether.http", 6),
    ("tether.admin", 6),
    ("supervision.runtime", 2),
    ("actors", 4),
    ("supervision.spec", 1),
    ("supervision.strategy", 1),
    ("supervision.intensity", 1),
    ("supervision.backoff", 1),
    ("supervision.tree", 1),
    ("supervision.child_state", 1),
    ("supervision.children", 1),
    ("supervision.actions", 1),
    ("supervision.events", 1),
    ("supervision.external_cause", 1),
    ("supervision.directory", 1),
    ("supervision.policies.async_driver", 2),
    ("supervision.policies.actor_driver", 2),
    ("supervision.policies", 1),
    ("supervision", 3),
    ("actors.stores", 3),
    ("actors.core.engine_kinds", 0),  # the table: which engines there are
    ("actors.engines", 3),
    ("actors.artifacts", 3),
    ("supervision.security", 1),  # the runtime shows and checks certificates
    ("supervision.telemetry", 1),  # metrics and logs are used by the runtime itself
    ("actors.core", 1),
    ("supervision.capability", 0),
    ("actors.contracts", 0),
    ("tether.config", 0),
    ("supervision.errors", 0),
)
# Pure modules: they decide, and know neither actors nor sockets nor SQL.
PURE = (
    "actors.core",
    "actors.contracts",
    "tether.config",
    "supervision.errors",
    "supervision.capability",
    "actors.core.engine_kinds",
)
PURE_SUPERVISION = tuple(prefix for prefix, layer in LAYERS if layer == 1 and "super" in prefix)
PURE_ARTIFACTS = tuple(
    f"actors.artifacts.{name}"
    for name in ("bandwidth", "digest", "filename", "layout", "manifest", "signature")
)
SHELL_WORDS = frozenset({"thespian", "asyncio", "asyncpg", "socket", "uvicorn", "starlette"})
# What engines may know of us: their host runs in vLLM's environment, which has no more than that.
ENGINES_KNOW = (
    "supervision.capability",
    "actors.contracts",
    "actors.core",
    "actors.engines",
    "supervision.errors",
    "supervision.telemetry",
)
TORCH_WORDS = frozenset({"torch", "transformers", "vllm"})


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def layer(module: str) -> int | None:
    """The layer of `module`; None for the bare packages, whose `__init__` holds no code."""
    return next((number for prefix, number in LAYERS if within(module, prefix)), None)


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(module: str, source: str, *, is_package: bool) -> Iterator[tuple[str, int]]:
    """(imported module, line), including those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
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


def faults(module: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    own = layer(module)
    for target, line in imports(module, source, is_package=is_package):
        where = f"{module}, line {line}"
        first = target.split(".")[0]
        if first in PACKAGES and target not in PACKAGES:
            other = layer(target)
            if other is None:
                yield f"{where}: {target} stands in no layer; add it to LAYERS"
            elif own is not None and other > own and not _same_package(module, target):
                yield f"{where}: layer {own} imports upwards, {target} is in layer {other}"
        if first == "thespian" and module.split(".")[0] not in ("actors", "supervision"):
            yield f"{where}: thespian is imported outside actors/ and supervision/"
        pure = own in (0, 1) and any(within(module, p) for p in PURE + PURE_SUPERVISION)
        if pure and first in SHELL_WORDS:
            yield f"{where}: this module is pure, and imports {first}"
        if (
            within(module, "actors.engines")
            and first in PACKAGES
            and not any(within(target, known) for known in ENGINES_KNOW)
        ):
            yield f"{where}: an engine knows nothing of {target}"
        if first == "obstore" and not within(module, "actors.artifacts"):
            yield f"{where}: {first} is imported outside actors.artifacts"
        if module in PURE_ARTIFACTS and first in (*SHELL_WORDS, "obstore", "os", "pathlib"):
            yield f"{where}: this module is pure, and imports {first}"
        if first in TORCH_WORDS and not within(module, "actors.engines"):
            yield f"{where}: {first} is imported outside actors.engines"


def _same_package(module: str, target: str) -> bool:
    """An `__init__` may re-export what lies in its package, whichever layer that is in."""
    return target.startswith(module + ".")


def test_imports_go_downwards_only() -> None:
    found = [
        fault
        for module, path in modules()
        for fault in faults(
            module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py"
        )
    ]
    assert not found, "\n".join(found)


def test_every_module_stands_in_a_layer() -> None:
    loose = [m for m, _ in modules() if layer(m) is None and m not in PACKAGES]
    assert not loose, f"add to LAYERS: {loose}"


@pytest.mark.parametrize(
    ("module", "source", "told"),
    [
        ("actors.core.x", "from supervision.runtime import Actor", "upwards"),
        ("actors.core.x", "def f():\n    import actors.stores", "upwards"),
        ("actors.core.x", "import asyncio", "pure"),
        ("tether.http.x", "import thespian.actors", "outside"),
        ("actors.worker.x", "import torch", "actors.engines"),
        ("supervision.spec", "from supervision.supervisor import S", "upwards"),
        ("supervision.policies.stack", "import asyncio", "pure"),
        ("supervision.policies.retry", "from supervision.policies import async_driver", "upwards"),
        ("actors.gateway.x", "from tether.http import door", "upwards"),
        ("actors.gateway.x", "from tether import http", "upwards"),
        ("actors.worker.x", "import obstore", "actors.artifacts"),
        ("actors.artifacts.manifest", "import asyncio", "pure"),
        ("actors.engines.x", "from tether.config import Model", "an engine knows nothing"),
        ("actors.engines.x", "def f():\n    import actors.stores", "an engine knows nothing"),
        ("actors.core.engine_kinds", "from actors.engines import factory", "upwards"),
        ("actors.core.engine_kinds", "import asyncio", "pure"),
        ("actors.artifacts.pull", "from actors.worker import loader", "upwards"),
    ],
)
def test_the_rule_sees_what_breaks_it(module: str, source: str, told: str) -> None:
    assert any(told in fault for fault in faults(module, source))
