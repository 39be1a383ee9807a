"""Nothing that comes from elsewhere is run: no pickle, no marshal, no eval, whoever would call it
(docs/adr/0026-no-pickle.md). Read from the source of the three packages and the examples."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("supervision", "actors", "tether", "examples")

# Modules whose reading makes objects of any class, or runs what it reads.
MODULES = {
    *("pickle", "_pickle", "cPickle", "pickletools", "copyreg", "marshal", "shelve", "dbm"),
    *("dill", "cloudpickle", "joblib", "jsonpickle", "code", "codeop"),
    "multiprocessing",  # its pipes, queues and managers pickle what they carry
    "logging.handlers",  # SocketHandler and DatagramHandler pickle records
}
BUILTINS = {"eval", "exec"}
NAMES = {"ProcessPoolExecutor"}  # pickles calls and answers
# Keywords that make a loader trust what it loads.
TRUSTING = {("allow_pickle", True), ("trust_remote_code", True), ("weights_only", False)}

# What may, and why: a file, what it uses there, the reason.
MAY = {
    ("tether/admin/mutations.py", "eval"): "an operator's own words in `tether shell`",
    ("supervision/runtime/spawning.py", "multiprocessing"): "starts own children, by a pipe",
    ("supervision/runtime/spares.py", "multiprocessing"): "keeps own children, forgets them",
    ("supervision/runtime/spare.py", "multiprocessing"): "is such a child",
    ("supervision/runtime/spare.py", "pickle"): "reads the pipe that its parent has made for it",
}


def uses(source: str) -> Iterator[tuple[str, int]]:
    """What a module uses of all that, and in which line."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
            for alias in node.names:
                if alias.name in NAMES:
                    yield alias.name, node.lineno
        for module in MODULES:
            if any(name == module or name.startswith(f"{module}.") for name in names):
                yield module, node.lineno
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.id, node.lineno  # called, or handed on to be
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {
            "builtins.eval",
            "builtins.exec",
        }:
            yield node.attr, node.lineno
        if isinstance(node, ast.Call):
            yield from ((what, node.lineno) for what in loads(node))


def loads(call: ast.Call) -> Iterator[str]:
    said = {key.arg: getattr(key.value, "value", ...) for key in call.keywords if key.arg}
    for key, value in TRUSTING:
        if key in said and said[key] is not (not value):
            yield f"{key}={value}"
    if ast.unparse(call.func).endswith("torch.load") and said.get("weights_only") is not True:
        yield "torch.load"
    first = ast.unparse(call.args[0]) if call.args else ""
    if ast.unparse(call.func) in {"__import__", "import_module", "importlib.import_module"}:
        yield from (module for module in MODULES if first.strip("'\"") == module)


def found() -> list[tuple[str, str, int]]:
    return [
        (str(path.relative_to(ROOT)), what, line)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for what, line in uses(path.read_text(encoding="utf-8"))
    ]


def test_nothing_unpickles_or_evaluates_but_what_is_named_here() -> None:
    wrong = [
        f"{path}, line {line}: {what}" for path, what, line in found() if (path, what) not in MAY
    ]
    assert not wrong, "\n".join(wrong)


def test_each_exception_is_still_one() -> None:
    assert {(path, what) for path, what, _ in found()} == set(MAY)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from pickle import loads", "pickle"),
        ("import os, marshal as m", "marshal"),
        ("from multiprocessing import Queue", "multiprocessing"),
        ("import multiprocessing.connection", "multiprocessing"),
        ("from logging import handlers", "logging.handlers"),
        ("import logging.handlers", "logging.handlers"),
        ("from concurrent.futures import ProcessPoolExecutor", "ProcessPoolExecutor"),
        ("import importlib\nimportlib.import_module('pickle')", "pickle"),
        ("__import__('marshal')", "marshal"),
        ("x = eval('1')", "eval"),
        ("map(exec, words)", "exec"),
        ("import builtins\nbuiltins.exec('1')", "exec"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
        ("np.load(path, allow_pickle=some)", "allow_pickle=True"),
        ("AutoModel.from_pretrained(f, trust_remote_code=True)", "trust_remote_code=True"),
    ],
)
def test_the_rule_sees_what_breaks_it(source: str, what: str) -> None:
    assert what in [one for one, _ in uses(source)]


@pytest.mark.parametrize(
    "source",
    [
        "net = net.eval()",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "import logging\nfrom tether import pickles",
        "def evaluate(): ...",
    ],
)
def test_the_rule_lets_pass_what_it_should(source: str) -> None:
    assert not list(uses(source))
