"""Nodes for the tests of a module, and what they measured at the end of the run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.node_process import ECHO, SMOLLM2, Launcher, Node, write_config
from tests.support.waiting import PATIENCE_S

_MEASURED: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.acceptance)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _MEASURED:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def measured() -> list[str]:
    """Lines to be shown at the end of the run."""
    return _MEASURED


@pytest.fixture(scope="module")
def launch() -> Iterator[Launcher]:
    launcher = Launcher()
    try:
        yield launcher
    finally:
        launcher.close()


@pytest.fixture(scope="module")
def echo_node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A node with the echo model, for the tests of one module."""
    folder = tmp_path_factory.mktemp("echo")
    write_config(folder)
    return launch(folder)


@pytest.fixture(scope="module")
def real_node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A node with SmolLM2 and the echo model."""
    folder = tmp_path_factory.mktemp("real")
    write_config(folder, models=ECHO + SMOLLM2)
    return launch(folder, timeout_s=300)


@pytest.fixture
async def http(echo_node: Node) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the echo node that carries its key."""
    async with httpx2.AsyncClient(
        base_url=echo_node.url, headers=echo_node.headers, timeout=PATIENCE_S
    ) as client:
        yield client
