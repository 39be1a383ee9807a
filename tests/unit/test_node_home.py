"""The directory of a node: who may hold it, and what is left in it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tether.node.home import MAX_SOCKET_PATH, Home, HomeUnusable, NodeState, is_held, running
from tether.node.processes import MARK, end_all, of_home

STATE = NodeState(pid=1, node="n1", run_dir="/nowhere", admin_port=1900)


def test_one_node_holds_it_and_leaves_it_clean(tmp_path: Path) -> None:
    path = tmp_path / "node"
    home = Home.claim(path, "n1")
    home.tell(STATE)
    assert running(path) == STATE
    assert stat.S_IMODE((path / "node.json").stat().st_mode) == 0o600
    with pytest.raises(HomeUnusable, match=r"pid 1.*tether down"):
        Home.claim(path, "n2")
    home.close()
    home.close()
    assert running(path) is None
    assert not home.run_dir.exists()
    assert sorted(p.name for p in path.iterdir()) == ["layout", "lock"]
    Home.claim(path, "n1").close()


def test_what_a_killed_node_left_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30)
    child = subprocess.run(
        [sys.executable, "-c", (
            "import os, sys; from pathlib import Path; from tether.node.home import *\n"
            "home = Home.claim(Path(sys.argv[1]), 'n1'); print(home.run_dir)\n"
            "home.tell(NodeState(pid=os.getpid(), node='n1', run_dir=str(home.run_dir), "
            "admin_port=1)); os._exit(9)"
        ), str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    left = Path(child.stdout.strip())
    assert left.parent == Path(tempfile.gettempdir()), "the path was short enough after all"
    assert left.is_dir()
    assert not is_held(path), "the lock outlived its holder"
    home = Home.claim(path, "n1")
    assert not left.exists()
    home.close()


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(HomeUnusable, match="something else"):
        Home.claim(tmp_path, "n1")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_layout_is_refused(tmp_path: Path) -> None:
    Home.claim(tmp_path / "d", "n1").close()
    (tmp_path / "d" / "layout").write_text("2\n")
    with pytest.raises(HomeUnusable, match="layout '2'"):
        Home.claim(tmp_path / "d", "n1")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    with pytest.raises(HomeUnusable, match=r"node\.data_dir"):
        Home.claim(tmp_path / "d", "n1")


def test_sockets_fit(tmp_path: Path) -> None:
    for depth in (1, 20, 200):
        home = Home.claim(tmp_path / ("d" * depth), "node-with-a-name")
        try:
            socket = home.run_dir / "node-with-a-name" / "1234567-deadbeef"
            assert len(os.fsencode(socket)) <= MAX_SOCKET_PATH
            assert stat.S_IMODE(home.run_dir.stat().st_mode) == 0o711
        finally:
            home.close()


def test_all_processes_of_a_home_end(tmp_path: Path) -> None:
    deaf = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('on', flush=True); signal.pause()"
    )
    polite = "import signal; print('on', flush=True); signal.pause()"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE,
            env={**os.environ, MARK: str(home)},
        )
        for code, home in ((deaf, tmp_path), (polite, tmp_path), (polite, tmp_path / "other"))
    ]  # fmt: skip
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"on\n"
        assert set(of_home(tmp_path)) == {children[0].pid, children[1].pid}
        assert end_all(tmp_path, grace_s=0.3) == [children[0].pid]
        assert children[2].poll() is None
    finally:
        for child in children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


def test_who_hides_its_environment_is_known_by_its_parent(tmp_path: Path) -> None:
    hidden = "import subprocess; print(subprocess.Popen(['sleep', '60'], env={}).pid, flush=True)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{hidden}; import signal; signal.pause()"],
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: str(tmp_path)},
    )
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert set(of_home(tmp_path)) == {parent.pid, child}
        end_all(tmp_path, grace_s=5.0)
        assert list(of_home(tmp_path)) == []
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout is not None:
            parent.stdout.close()
