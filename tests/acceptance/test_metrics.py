"""What a node shows without a key: no names at its door, and figures at a listener of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.node_process import ECHO, Launcher, Node, tether, until, write_config
from tests.support.waiting import PATIENCE_S

HIDDEN = """
[[models]]
name = "project-halibut"
engine = "echo"
[models.policy]
tenants = ["acme"]
"""
SECRET = "halibut"
KEYLESS = (
    "/healthz", "/readyz", "/metrics", "/metrics/", "/", "/v1/models",
    "/v1/models/project-hal", "/v1/registry/models",
)  # fmt: skip


@pytest.fixture(scope="module")
def node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    folder = tmp_path_factory.mktemp("metrics")
    write_config(folder, models=HIDDEN + ECHO.replace('["echo"]', '["*"]'))
    return launch(folder)


def figures(node: Node) -> dict[str, float]:
    """The sum of each metric over its labels, as Prometheus reads them."""
    answer = httpx2.get(node.metrics, timeout=PATIENCE_S)
    assert answer.status_code == 200
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def ask(node: Node, model: str) -> None:
    answer = httpx2.post(
        f"{node.url}/v1/completions", headers=node.headers, timeout=PATIENCE_S,
        json={"model": model, "prompt": "a b", "max_tokens": 2},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text


def test_no_name_of_a_hidden_model_is_shown_without_a_key(node: Node) -> None:
    ask(node, "project-halibut")
    listed = httpx2.get(f"{node.url}/v1/models", headers=node.headers).text
    assert SECRET in listed  # to whom it is shown
    other = node.make_key("other")
    headers = {"authorization": f"Bearer {other}"}
    assert SECRET not in httpx2.get(f"{node.url}/v1/models", headers=headers).text
    for path in KEYLESS:
        answer = httpx2.get(f"{node.url}{path}", timeout=PATIENCE_S)
        assert SECRET not in answer.text and SECRET not in str(answer.headers), path
    ready = httpx2.get(f"{node.url}/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "models": 2})
    shown = tether("shell", "-c", "workers", "--json", cwd=node.folder)
    assert SECRET in shown.stdout  # operators see all


async def test_metrics_outlive_doors_and_their_own_process(node: Node) -> None:
    before = figures(node)
    assert before["tether_http_requests_total"] > 0
    tree = node.tree()
    os.kill(tree["doors/0"]["pid"], signal.SIGKILL)
    assert figures(node)["tether_http_requests_total"] >= before["tether_http_requests_total"]
    os.kill(tree["metrics"]["pid"], signal.SIGKILL)
    # who connects meanwhile waits for the next one
    assert figures(node)["tether_http_requests_total"] >= before["tether_http_requests_total"]

    async def back() -> bool:
        now = node.tree()
        return all(
            now[path]["state"] == "running" and now[path]["pid"] != tree[path]["pid"]
            for path in ("doors/0", "metrics")
        )

    await until(back, "both are back")
    ask(node, "echo")
    assert node.process.poll() is None


def test_its_port_is_the_node_s_alone(node: Node, tmp_path: Path) -> None:
    write_config(tmp_path)
    config = tmp_path / "cluster.toml"
    taken = httpx2.URL(node.metrics).port
    config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{taken}"))
    refused = tether("up", cwd=tmp_path)
    assert refused.returncode == 1
    assert f"nobody can listen on 127.0.0.1:{taken}" in refused.stderr
    assert "set node.metrics" in refused.stderr


def test_none_are_shown_where_none_are_wanted(launch: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path)
    config = tmp_path / "cluster.toml"
    config.write_text(config.read_text().replace("127.0.0.1:0", ""))
    key = tmp_path / "ca/ca.key"
    key.parent.mkdir()
    key.touch(0o644)
    node = launch(tmp_path)
    assert f"chmod 600 {key}" in node.log.read_text()  # warned of, and no reason not to start
    assert "metrics" not in node.tree() and node.metrics == ""
    assert "metrics at" not in node.log.read_text()
    assert node.stop() == 0
