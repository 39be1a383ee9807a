"""What ps shows of a node; and what a killed one has left is found although it has titles."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.support import tiny_gguf
from tests.support.node_process import ECHO, Launcher, Node, of_home, until, write_config

GGUF = """
[[models]]
name = "tiny"
engine = "gguf"
source = "{source}"
context = 512
[[workers]]
id = "gguf"
models = ["tiny"]
slots = 4
"""


@pytest.fixture
def node(launch: Launcher, tmp_path: Path) -> Node:
    source = tiny_gguf.make(tmp_path)
    write_config(tmp_path, models=ECHO + GGUF.format(source=source))
    return launch(tmp_path)


def title(pid: int) -> str:
    """What `ps -o args` shows, without the room that is left of it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def titles(node: Node) -> dict[int, str]:
    """The launcher's, and those of all processes that carry the node's mark but PostgreSQL's."""
    found = {pid: title(pid) for pid in node.pids()}
    return {pid: of for pid, of in found.items() if "bin/postgres" not in of}


def spare_of(supervisor: int) -> int:
    """A spare of this one that is ready to be used; 0 if there is none now."""
    for child in psutil.Process(supervisor).children():
        if child.name() == "tether-spare":
            return child.pid
    return 0


async def test_ps_says_what_each_process_is(node: Node) -> None:
    tree = node.tree()
    doors, before = tree["doors"]["pid"], tree["doors/0"]["pid"]
    of_node = f"tether {node.state['node']}"
    want = {child["pid"]: f"{of_node} {path or 'root'}" for path, child in tree.items()}
    (admin,) = {psutil.Process(tree[""]["pid"]).ppid()}
    want |= {node.process.pid: f"{of_node} up", admin: f"{of_node} admin"}

    async def spare() -> bool:
        return bool(spare_of(doors))

    await until(spare, "the doors have a spare")
    found = titles(node)
    assert {pid: found.get(pid) for pid in want} == want
    others = {of for pid, of in found.items() if pid not in want}
    engine = f"{of_node} workers/gguf engine tiny@1"
    (store,) = psutil.Process(tree["valkey"]["pid"]).children()
    assert title(store.pid).startswith(f"{of_node} valkey server")
    others -= {f"{of_node} spare", title(store.pid)}
    assert others == {f"{of_node} logger", engine}

    # the spare becomes the next door
    waiting = spare_of(doors)
    assert title(waiting) == f"{of_node} spare"
    os.kill(before, signal.SIGKILL)

    async def back() -> bool:
        return bool(node.tree()["doors/0"]["pid"] == waiting)

    await until(back, "the spare is the door")
    assert title(waiting) == f"{of_node} doors/0"
    assert node.stop() == 0


async def test_the_next_start_ends_what_a_killed_node_has_left(
    launch: Launcher, node: Node, tmp_path: Path
) -> None:
    async def told() -> bool:
        return all(of.startswith("tether ") for of in titles(node).values())

    await until(told, "the spares that are made after the start have their title")
    left = titles(node)
    del left[node.process.pid]
    assert len(left) > 10
    ends = (" admin", " doors/0", " workers/gguf", " engine tiny@1")
    stopped = [pid for pid, of in left.items() if of.endswith(ends)]
    assert len(stopped) == len(ends)
    for pid in stopped:  # nobody ends the node now
        os.kill(pid, signal.SIGSTOP)
    node.process.kill()
    node.process.wait()
    assert set(stopped) <= set(of_home(tmp_path / ".tether"))
    again = launch(tmp_path)
    assert "processes that an earlier node had left" in again.log.read_text()
    assert not [pid for pid in left if psutil.pid_exists(pid) and title(pid) == left[pid]]
    assert again.stop() == 0
