"""What keeps names apart and modules small, in the three packages (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("supervision", "actors", "tether")
MAX_LINES = 350


def sources() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def shared_class_names(sources: Mapping[str, str]) -> list[str]:
    """Public classes of one name, wherever they are defined at the top of a module."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path, text in sources.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(path)
    return [f"{name}: {', '.join(at)}" for name, at in sorted(found.items()) if len(at) > 1]


def too_long(sources: Mapping[str, str]) -> list[str]:
    lengths = ((path, text.count("\n")) for path, text in sources.items())
    return [f"{path}: {lines} lines" for path, lines in lengths if lines > MAX_LINES]


def reexports_only(paths: Iterable[str], sources: Mapping[str, str]) -> list[str]:
    """Files `__init__.py` that hold anything but a docstring, imports and `__all__`."""
    found = []
    for path in paths:
        for node in ast.parse(sources[path]).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            listed = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            if not (docstring or listed or isinstance(node, ast.ImportFrom)):
                found.append(f"{path}, line {node.lineno}")
    return found


def test_no_two_classes_share_a_name() -> None:
    assert not (found := shared_class_names(sources())), "\n".join(found)


def test_no_module_is_too_long_to_hold_one_idea() -> None:
    assert not (found := too_long(sources())), "\n".join(found)


def test_packages_hold_a_docstring_and_exports_only() -> None:
    held = sources()
    inits = [path for path in held if path.endswith("__init__.py")]
    assert not (found := reexports_only(inits, held)), "\n".join(found)
    for floor in ("supervision", "actors"):  # the engine's host is imported without their packages
        assert "import" not in held[f"{floor}/__init__.py"]


def test_the_rules_see_what_breaks_them() -> None:
    planted = {
        "a/x.py": "class Job: ...\nclass _Row: ...\n",
        "b/y.py": "class Job: ...\nclass _Row: ...\n" + "\n" * MAX_LINES,
        "b/__init__.py": '"""B."""\nfrom b.y import Job\n\n__all__ = ["Job"]\n\ndef f(): ...\n',
    }
    assert shared_class_names(planted) == ["Job: a/x.py, b/y.py"]
    assert too_long(planted) == [f"b/y.py: {MAX_LINES + 2} lines"]
    assert reexports_only(["b/__init__.py"], planted) == ["b/__init__.py, line 6"]
