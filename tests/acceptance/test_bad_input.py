"""What is wrong is told in one sentence with the right status, and leaves nothing running."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.node_process import (
    ECHO,
    Launcher,
    Node,
    assert_gone,
    of_home,
    tether,
    write_config,
)
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

HEARS_S = 30.0  # of a revocation; by itself it would forget a key after 60
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def told(response: httpx2.Response) -> dict[str, Any]:
    """The error in OpenAI's shape."""
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "code", "param"}
    assert "Traceback" not in response.text
    return dict(error)


@pytest.mark.parametrize("body", [b"{", b"", b"[1]", b"\xff\xfe", b'{"model": 3}', b"null"])
async def test_a_malformed_body(http: httpx2.AsyncClient, body: bytes) -> None:
    response = await http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert told(response)["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"n": 2}, "n"),
    ],
)
async def test_a_parameter_out_of_range(
    http: httpx2.AsyncClient, change: dict[str, Any], param: str
) -> None:
    response = await http.post("/v1/chat/completions", json={**CHAT, **change})
    assert response.status_code == 400
    assert told(response)["param"] == param


async def test_more_tokens_than_the_context_holds(http: httpx2.AsyncClient) -> None:
    words = " ".join(["word"] * 9000)
    response = await http.post(
        "/v1/chat/completions",
        json={**CHAT, "messages": [{"role": "user", "content": words}]},
    )
    assert response.status_code == 400
    assert told(response)["code"] == "context_length_exceeded"


async def test_an_unknown_model(http: httpx2.AsyncClient) -> None:
    response = await http.post("/v1/chat/completions", json={**CHAT, "model": "nobody"})
    assert response.status_code == 404
    assert "nobody" in told(response)["message"]


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer sk-1", "Basic dG9tOnNlY3JldA=="])
async def test_a_wrong_key(echo_node: Node, key: str) -> None:
    async with httpx2.AsyncClient(base_url=echo_node.url, timeout=PATIENCE_S) as client:
        headers = {"authorization": key} if key else {}
        response = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert response.status_code == 401
    assert told(response)["code"] == "invalid_api_key"


async def test_a_revoked_key(echo_node: Node) -> None:
    key = echo_node.make_key("leaving")
    async with httpx2.AsyncClient(
        base_url=echo_node.url, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE_S
    ) as client:
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        assert tether("keys", "revoke", key, cwd=echo_node.folder).returncode == 0
        until = time.monotonic() + HEARS_S
        while (response := await client.post("/v1/chat/completions", json=CHAT)).is_success:
            assert time.monotonic() < until, f"a revoked key is still let in after {HEARS_S} s"
    assert response.status_code == 401


async def test_too_large_a_body(http: httpx2.AsyncClient) -> None:
    big = {**CHAT, "messages": [{"role": "user", "content": "x" * (5 << 20)}]}
    response = await http.post("/v1/chat/completions", json=big)
    assert response.status_code == 413
    assert told(response)["code"] == "body_too_large"


async def test_unknown_paths_and_methods(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/v1/nothing")).status_code == 404
    assert (await http.get("/v1/chat/completions")).status_code == 405


async def test_the_node_still_answers_after_all_that(http: httpx2.AsyncClient) -> None:
    response = await http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200


# ---- a node that cannot start


def refused(folder: Path, *args: str) -> str:
    """What `tether up` says when it can't; it must end by itself and leave nothing."""
    up = tether("up", *args, cwd=folder, timeout=2 * PATIENCE_S)
    assert up.returncode == 1, up.stdout + up.stderr
    assert list(of_home(folder / ".tether")) == []
    # The rest is the log of actors that had started.
    said = "".join(f"{line}\n" for line in up.stderr.splitlines() if line.startswith("tether: "))
    assert "Traceback" not in said
    return said


def test_a_bad_configuration(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text("[http]\nprot = 1\nport = 99999\n" + ECHO)
    said = refused(tmp_path)
    assert "http.prot: there is no such key; did you mean 'port'?" in said
    assert "http.port:" in said
    checked = tether("check", cwd=tmp_path)
    assert checked.returncode == 1
    assert checked.stderr == said
    assert not (tmp_path / ".tether").exists()


def test_no_configuration(tmp_path: Path) -> None:
    assert "--config" in refused(tmp_path)


def test_an_occupied_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        write_config(tmp_path, port=port)
        said = refused(tmp_path)
    assert f"127.0.0.1:{port}" in said
    assert said.count("\n") == 1


def test_two_nodes_that_start_at_once_on_one_port(launch: Launcher, tmp_path: Path) -> None:
    """Who is late says so, first and last, and starts nothing."""
    port, nodes = free_port(), []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, port=port)
        nodes.append(launch.start(tmp_path / name))
    until = time.monotonic() + 2 * PATIENCE_S
    while all(node.process.poll() is None for node in nodes):
        assert time.monotonic() < until, "both of them run"
        time.sleep(0.05)
    [late] = [node for node in nodes if node.process.poll() is not None]
    [first] = [node for node in nodes if node is not late]
    assert late.process.returncode == 1
    lines = late.log.read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith("tether: "), late.tail()
    assert f"127.0.0.1:{port}" in lines[0]
    assert_gone(late.folder)
    first.wait_ready()
    assert first.stop() == 0


def test_a_data_directory_of_another_version(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / ".tether").mkdir()
    (tmp_path / ".tether" / "layout").write_text("99\n")
    assert "layout '99'" in refused(tmp_path)


def test_a_database_of_another_version(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    launch(tmp_path).stop()
    version = next((tmp_path / ".tether").rglob("PG_VERSION"))
    version.write_text("12\n")
    said = refused(tmp_path)
    assert "is of PostgreSQL 12" in said
    assert said.count("\n") == 1
    assert_gone(tmp_path)


def test_a_model_folder_with_a_missing_file(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    write_config(
        tmp_path,
        models=f'[[models]]\nname = "broken"\nengine = "transformers"\nsource = "{model}"\n'
        '[[workers]]\nid = "w"\nmodels = ["broken"]\n',
    )
    said = refused(tmp_path)
    assert "tokenizer.json" in said
    assert_gone(tmp_path)


def test_a_second_node_on_the_same_data(echo_node: Node) -> None:
    other = echo_node.folder / "other.toml"
    text = (echo_node.folder / "cluster.toml").read_text()
    other.write_text(text.replace("port = ", "port = 0 # "))
    up = tether("up", "--config", str(other), cwd=echo_node.folder)
    assert up.returncode == 1
    assert f"pid {echo_node.process.pid}" in up.stderr
    assert "tether down" in up.stderr
