"""What keeps names apart and modules small, in the three packages (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("supervision", "actors", "tether")
MAX_LINES = 350

# unit tests that name no module, for they look at many
ACROSS = {
    "test_docs_links.py",
    "test_supply_chain.py",
    "test_house_rules.py",
    "test_import_circles.py",
    "test_import_rule.py",
    "test_no_pickle.py",
    "test_supervision_invariants.py",  # of the tree with all its parts, under random histories
}


METRICS = "supervision/telemetry/metrics.py"
HEAVY = re.compile(r"(torch|transformers|llama_cpp|tests\.support\.(tiny|tiny_gguf|adapter))\b")


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


def names_of_tests(paths: Iterable[str]) -> set[str]:
    """How a file of unit tests may be called that tests one of the modules at `paths`, or a
    package of them: `test_<package>_<module>.py`, or `test_<module>.py` where that begins with the
    name of the package anyway; a package is called by its own name alone."""
    names = set()
    for path in paths:
        package, module = Path(path).parent.name.strip("_"), Path(path).stem.strip("_")
        if module == "init":
            names.add(package)
        else:
            names.add(f"{package}_{module}")
            if module.startswith(f"{package}_"):
                names.add(module)
    return {f"test_{name}.py" for name in names}


def of_no_module(tests: Iterable[str], paths: Iterable[str]) -> list[str]:
    return sorted(set(tests) - names_of_tests(paths) - ACROSS)


def heavy_imports(sources: Mapping[str, str]) -> list[str]:
    """Files that import what takes seconds to load, or what makes models with it."""
    found = []
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [
                    node.module or "",
                    *(f"{node.module}.{alias.name}" for alias in node.names),
                ]
            found += [f"{path}: {name}" for name in names if HEAVY.match(name)]
    return found


def same_text(sources: Mapping[str, str]) -> list[str]:
    """Files that hold the same, blank lines apart."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path, text in sources.items():
        if body := "\n".join(line for line in text.splitlines() if line.strip()):
            found[body].append(path)
    return [", ".join(at) for at in found.values() if len(at) > 1]


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


def test_each_file_of_unit_tests_is_named_after_what_it_tests() -> None:
    bench = (str(path.relative_to(ROOT)) for path in (ROOT / "bench").rglob("*.py"))
    tests = [path.name for path in (ROOT / "tests/unit").glob("test_*.py")]
    assert len(tests) > len(ACROSS)
    assert not (found := of_no_module(tests, [*sources(), *bench])), "\n".join(found)


def of_bare_files(sources: Mapping[str, str]) -> list[str]:
    """Modules that make metrics whose values a full disk would turn into a SIGBUS."""
    bare = re.compile(r"from prometheus_client import .*\b(Counter|Gauge|Histogram|Summary)\b")
    return [path for path, text in sources.items() if path != METRICS and bare.search(text)]


def test_metrics_are_kept_in_files_that_a_full_disk_leaves_alone() -> None:
    assert not (found := of_bare_files(sources())), "\n".join(found)


def test_unit_tests_load_no_model_library() -> None:
    held = {path.name: path.read_text() for path in (ROOT / "tests/unit").glob("*.py")}
    assert not (found := heavy_imports(held)), "\n".join(found)


def test_what_tests_share_is_there_once() -> None:
    held = {str(path): path.read_text() for path in (ROOT / "tests/support").glob("*.py")}
    assert not (found := same_text(held)), "\n".join(found)


def test_the_rules_see_what_breaks_them() -> None:
    planted = {
        "a/x.py": "class Job: ...\nclass _Row: ...\n",
        "b/y.py": "class Job: ...\nclass _Row: ...\n" + "\n" * MAX_LINES,
        "b/__init__.py": '"""B."""\nfrom b.y import Job\n\n__all__ = ["Job"]\n\ndef f(): ...\n',
    }
    assert shared_class_names(planted) == ["Job: a/x.py, b/y.py"]
    assert too_long(planted) == [f"b/y.py: {MAX_LINES + 2} lines"]
    assert reexports_only(["b/__init__.py"], planted) == ["b/__init__.py, line 6"]
    assert same_text({"a.py": "x = 1\n\ny = 2\n", "b.py": "x = 1\ny = 2\n", "c.py": "x = 1\n"}) == [
        "a.py, b.py"
    ]
    named = ["test_b.py", "test_a_x.py", "test_b_y_view.py", "test_b_z.py"]
    assert of_no_module(
        [*named, "test_x.py", "test_b_parts.py", "test_import_rule.py"],
        ["a/x.py", "b/__init__.py", "b/b_z.py", "b/y_view.py"],
    ) == ["test_b_parts.py", "test_x.py"]
    assert heavy_imports(
        {
            "a.py": "def f():\n    import torch.nn",
            "b.py": "from tests.support import tiny",
            "c.py": "from transformers import AutoTokenizer",
            "d.py": "import torchless, json",
        }
    ) == [
        "a.py: torch.nn",
        "b.py: tests.support.tiny",
        "c.py: transformers",
        "c.py: transformers.AutoTokenizer",
    ]
    bare = "from prometheus_client import REGISTRY, Gauge\n"
    kept = "from supervision.telemetry.metrics import Gauge\nfrom prometheus_client import REGISTRY"
    assert of_bare_files({"a.py": bare, "b.py": kept, METRICS: bare}) == ["a.py"]


def proofs() -> list[Path]:
    """What `scripts/prove` runs as a module of the tests."""
    text = (ROOT / "scripts/prove").read_text(encoding="utf-8")
    modules = sorted(set(re.findall(r"-m (tests\.(?:acceptance|integration)\.\w+)", text)))
    return [ROOT / f"{module.replace('.', '/')}.py" for module in modules]


def test_a_proof_that_is_cut_off_leaves_nothing_running() -> None:
    found = proofs()
    assert len(found) > 8
    late = [str(p) for p in found if "    clean_up_on_sigterm()\n" not in p.read_text()]
    assert late == []
