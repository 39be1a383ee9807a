"""The commands against a node that runs, and against none."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from pathlib import Path

import httpx2
import pytest

from tests.support.node_process import (
    TETHER,
    Launcher,
    Node,
    environment,
    tether,
    until,
    write_config,
)


def test_the_tree_shows_every_process(echo_node: Node) -> None:
    tree = echo_node.tree()
    assert {
        "postgres",
        "control",
        "control/registry",
        "control/roster",
        "control/reservation",
        "control/scheduler",
        "control/gateways",
        "control/gateways/0",
        "workers",
        "workers/echo",
        "doors",
        "doors/0",
    } <= set(tree)
    for child in tree.values():
        assert child["state"] == "running", child
        os.kill(child["pid"], 0)
    shown = tether("tree", cwd=echo_node.folder)
    assert shown.returncode == 0
    assert f"pid {tree['control/scheduler']['pid']}" in shown.stdout


async def test_a_restart_shows_in_the_tree(echo_node: Node) -> None:
    before = echo_node.tree()["doors/0"]
    os.kill(before["pid"], signal.SIGKILL)

    async def back() -> bool:
        now = echo_node.tree()["doors/0"]
        return bool(now["state"] == "running" and now["pid"] != before["pid"])

    await until(back, "the front door is back")
    now = echo_node.tree()["doors/0"]
    assert now["restarts"] == before["restarts"] + 1
    assert "vanished" in now["last_exit"] or "killed" in now["last_exit"]


def test_keys_are_made_listed_and_revoked(echo_node: Node) -> None:
    folder = echo_node.folder
    made = tether("keys", "create", "globex", "--name", "a test", cwd=folder)
    key = made.stdout.strip()
    assert key.startswith("tether-globex-")
    headers = {"authorization": f"Bearer {key}"}
    assert httpx2.get(f"{echo_node.url}/v1/models", headers=headers).status_code == 200
    listed = tether("keys", "list", "--tenant", "globex", "--json", cwd=folder)
    (row,) = map(json.loads, listed.stdout.splitlines())
    assert (row["name"], row["revoked_at"]) == ("a test", None)
    assert key not in listed.stdout
    assert "globex" in tether("keys", "list", cwd=folder).stdout
    assert tether("keys", "revoke", row["id"], cwd=folder).returncode == 0
    again = tether("keys", "revoke", row["id"], cwd=folder)
    assert again.returncode == 1
    assert "tether keys list" in again.stderr


@pytest.mark.parametrize("columns", [20, 80, 0])
def test_an_id_that_is_listed_can_be_revoked(echo_node: Node, columns: int) -> None:
    """On terminals of this width, and (0) where there is none."""
    folder, tenant = echo_node.folder, f"tenant-of-{columns}"
    name = "a name of so many words that a line of eighty columns does not hold it"
    tether("keys", "create", tenant, "--name", name, cwd=folder)
    list_ = ("keys", "list", "--tenant", tenant)
    shown = (
        on_terminal(columns, *list_, cwd=folder) if columns else tether(*list_, cwd=folder).stdout
    )
    head, first, *more = shown.splitlines()
    assert head.split()[:4] == ["id", "tenant", "key", "name"]
    id_, of, prefix, *_ = first.split()
    assert of == tenant
    assert prefix.startswith("tether-")
    if columns:
        assert more, "it was folded"
    else:
        assert name in first
        assert not more
    assert tether("keys", "revoke", id_, cwd=folder).returncode == 0


def on_terminal(columns: int, *command: str, cwd: Path) -> str:
    """What a command shows on a terminal, without escapes."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    shown = b""
    with subprocess.Popen(
        [*TETHER, *command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=theirs,
        env={**environment(), "TERM": "xterm-256color"},
    ) as process:  # fmt: skip
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: it has ended
            while more := os.read(ours, 65536):
                shown += more
    os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


def test_check_warns_of_what_others_may_read(tmp_path: Path) -> None:
    config = write_config(tmp_path, more='host = "0.0.0.0"\n')
    text = config.read_text()
    config.write_text(
        f'{text}\n[stores]\npostgres = "postgresql://u:p@db.example.org/t"\nroles = true\n'
    )
    config.chmod(0o644)
    shown = tether("check", cwd=tmp_path)
    assert shown.returncode == 0 and "is good" in shown.stdout
    http, database, file = shown.stderr.splitlines()
    assert http.startswith("warning: http.tls: ") and "plain HTTP to 0.0.0.0" in http
    assert "warning: stores.postgres: " in database and "?sslmode=verify-full" in database
    assert file.startswith("warning: cluster.toml: ") and "chmod 640" in file
    assert tether("check", "--strict", cwd=tmp_path).returncode == 1


def test_a_tenant_that_cannot_be_one(echo_node: Node) -> None:
    made = tether("keys", "create", "Not A Tenant", cwd=echo_node.folder)
    assert made.returncode == 1
    assert made.stderr.count("\n") == 1
    assert "Traceback" not in made.stderr


def test_without_a_node_each_command_says_so(tmp_path: Path) -> None:
    write_config(tmp_path)
    for command in (["tree"], ["down"], ["keys", "list"]):
        done = tether(*command, cwd=tmp_path)
        assert done.returncode == 1
        assert "tether up" in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / ".tether").exists()


def test_called_wrongly(tmp_path: Path) -> None:
    for command in (["upp"], ["keys", "create"], ["tree", "--colour"]):
        done = tether(*command, cwd=tmp_path)
        assert done.returncode == 2, command
        assert done.stderr.count("\n") == 1


def test_dev_prints_a_key_that_works(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    node = launch.start(tmp_path, "--dev")
    node.wait_ready()
    key = next(word for word in node.log.read_text().split() if word.startswith("tether-dev-"))
    headers = {"authorization": f"Bearer {key}"}
    assert httpx2.get(f"{node.url}/v1/models", headers=headers).status_code == 200
    assert node.stop() == 0


async def test_probes_and_metrics(echo_node: Node, http: httpx2.AsyncClient) -> None:
    assert (await http.get("/healthz")).status_code == 200
    ready = await http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "models": 1}
    assert (await http.get("/metrics")).status_code == 404
    text = (await http.get(echo_node.metrics)).text
    assert "tether_http_requests_total" in text
    assert "tether_bound_used" in text
