"""`tether shell`, typed at a terminal and run by scripts, on a node that works."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervision.telemetry.audit import NAME, AuditEntry, read
from tests.support.cluster_process import certify
from tests.support.node_process import TETHER, Launcher, Node, environment, tether, write_config
from tests.support.ports import free_port
from tests.support.terminal import Terminal

WAIT_S = 60.0
CONFIG = """
[node]
identity_dir = "ca/nodes/{{node}}"
metrics = "127.0.0.1:0"
[http]
port = {port}
[[nodes]]
id = "n1"
host = "127.0.0.1"
admin_port = {admin}
leader = true
[[models]]
name = "echo"
engine = "echo"
context = 8192
[models.policy]
order = ["rate", "deadline", "retry"]
rate = {{ per_s = 500, burst = 1000 }}
[[workers]]
id = "echo"
models = ["echo"]
slots = 64
count = 2
"""
LONG = {"model": "echo", "stream": True, "max_tokens": 4000}


@pytest.fixture(scope="module")
def node(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """It has a certificate, and so have two operators."""
    folder = tmp_path_factory.mktemp("shell")
    certify(folder, ["n1", "operator:alice", "operator:bob"])
    port, admin = free_port(), free_port()
    (folder / "cluster.toml").write_text(CONFIG.format(port=port, admin=admin))
    return launch(folder, "--allow-eval")


@pytest.fixture(scope="module")
def terminal(node: Node) -> Iterator[Terminal]:
    """A shell that somebody types at."""
    prompt = rf"{re.escape(node.state['node'])}[#>]\s*"
    opened = Terminal([*TETHER, "shell"], node.folder, environment(), prompt)
    opened.prompted()
    yield opened
    assert opened.close() == 0


#: Gauges of which /metrics shows the largest or smallest, not the sum.
MAXIMA = {"tether_breaker_state", "tether_tls_certificate_ends_seconds"}


#: What asking for /metrics itself changes.
ASKING = re.compile("http|door_connections|scrapes")


def script(node: Node, line: str, *flags: str, code: int = 0) -> list[dict[str, Any]]:
    """What `tether shell -c LINE --json` prints."""
    done = tether("shell", "-c", line, "--json", *flags, cwd=node.folder)
    assert done.returncode == code, (done.stdout, done.stderr)
    return [json.loads(row) for row in done.stdout.splitlines()]


def body(prompt: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "echo", "max_tokens": 4, "messages": [{"role": "user", "content": prompt}], **more,
    }  # fmt: skip


def complete(node: Node, prompt: str, name: str = "a-request", status: int = 200) -> None:
    response = httpx2.post(
        f"{node.url}/v1/chat/completions", json=body(prompt), timeout=WAIT_S,
        headers={**node.headers, "x-request-id": name},
    )  # fmt: skip
    assert response.status_code == status, response.text


class Streaming:
    """An answer under way."""

    def __init__(self, node: Node, name: str) -> None:
        self._client = httpx2.Client(timeout=WAIT_S)
        self._answer = self._client.stream(
            "POST", f"{node.url}/v1/chat/completions",
            json=body("delay=50 round and round", **LONG),
            headers={**node.headers, "x-request-id": name},
        )  # fmt: skip

    def __enter__(self) -> Iterator[str]:
        response = self._answer.__enter__()
        assert response.status_code == 200
        self._lines = response.iter_lines()  # which ends the answer when it is forgotten
        while "round" not in next(self._lines):
            pass
        return self._lines

    def __exit__(self, *error: Any) -> None:
        self._answer.__exit__(*error)
        self._client.close()


def audited(node: Node) -> list[AuditEntry]:
    return read(node.folder / ".tether" / NAME)


def eventually(run: Callable[[], str], pattern: str) -> str:
    """What `run` shows once it holds `pattern`."""
    until = time.monotonic() + WAIT_S
    while not re.search(pattern, shown := run()):
        assert time.monotonic() < until, f"{pattern!r} is not in:\n{shown}"
    return shown


def test_figures_are_those_of_metrics(node: Node) -> None:
    """First of all, while all who have counted still live."""
    complete(node, "one to count", "counted-1")
    own: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
    until = time.monotonic() + WAIT_S
    while True:
        own.clear()
        ids = [row["id"] for row in script(node, "ps") if not row["id"].startswith("(")]
        for row in script(node, "; ".join(f"stats {id_}" for id_ in ids)):
            own[row["name"], tuple(sorted(row["labels"].items()))] += row["value"]
        shown = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(httpx2.get(node.metrics).text)
            for sample in family.samples
        }
        differ = {
            key: (value, shown.get(key))
            for key, value in own.items()
            if not ASKING.search(str(key)) and key[0] not in MAXIMA and shown.get(key, 0.0) != value
        }
        if not differ:
            break
        assert time.monotonic() < until, f"figures that differ from /metrics: {differ}"
    counted = ("tether_requests_total", (("outcome", "completed"),))
    assert own[counted] == shown[counted] == 1
    assert own["tether_request_tokens_total", (("kind", "output"),)] == 4
    assert own["tether_engine_tokens_total", (("kind", "output"), ("model", "echo@1"))] >= 4


class TestLooking:
    def test_processes(self, node: Node, terminal: Terminal) -> None:
        tree = node.tree()
        shown = terminal.run("tree")
        for path, child in tree.items():
            name = path.rpartition("/")[2] or node.state["node"]
            assert re.search(rf"^ *{name} +running +.*pid {child['pid']}", shown, re.M), name
        table = rows_of(terminal.run("ps"))
        assert {"root", "(tether up)", "(admin)", *filter(None, tree)} == set(table)
        for path, child in tree.items():
            pid, memory, cpu, since, restarts = table[path or "root"]
            assert int(pid) == child["pid"]
            assert float(memory.removesuffix(" MiB")) > 5
            assert float(cpu.removesuffix(" s")) > 0
            assert re.fullmatch(r"\d+:\d\d:\d\d", since)
            assert int(restarts) == child["restarts"]

    def test_top_goes_on_until_ctrl_c(self, node: Node, terminal: Terminal) -> None:
        terminal.clear()
        terminal.type("top\r")
        terminal.expect(r"(?s)(\d+ processes, .*control/scheduler.*){2}")
        terminal.type("\x03")
        terminal.prompted()
        frame = tether("shell", "-c", "top", cwd=node.folder)  # no terminal: one frame
        assert frame.returncode == 0
        assert frame.stdout.count(" processes, ") == 1

    def test_one_actor(self, node: Node, terminal: Terminal) -> None:
        with Streaming(node, "inspected"):
            shown = terminal.run("inspect gateways/0")
            assert "there is no 'gateways/0'" in shown
            shown = terminal.run("inspect control/gateways/0")
            assert re.search(r"^handlers +infer 1$", shown, re.M), shown
            assert re.search(r"^  running +1$", shown, re.M)
            assert re.search(r"^  start +actors\.gateway\.gateway:Gateway$", shown, re.M)
            assert re.search(r"answers .*Infer", shown)
            assert re.search(r"\(doors/0\) +\d+ +connected", shown)
            (row,) = script(node, "inspect control")
        assert row["children"] == [
            f"control/{id_}"
            for id_ in ("registry", "roster", "reservation", "scheduler", "gateways")
        ]
        assert row["state"] == "running"

    def test_the_work(self, node: Node, terminal: Terminal) -> None:
        assert "no request runs" in eventually(lambda: terminal.run("sessions"), "no request")
        with Streaming(node, "slow-1"):
            (session,) = script(node, "sessions")
            shown = terminal.run("sessions")
            assert re.search(r"slow-1 +acme +running +echo@1", shown)
            job, worker = session["job"], session["worker"]
            lease = rows_of(terminal.run("leases"))[job]
            assert lease[:3] == ["acme", "echo@1", worker]
            seen = terminal.run("trace slow-1")
            for line in (f"job +{job}", "state +running", f"lease_worker +{worker}",
                         "session +running", f"worker +{worker}"):  # fmt: skip
                assert re.search(rf"^{line}$", seen, re.M), (line, seen)
            busy = rows_of(terminal.run("workers"))[worker]
            assert busy[0] == "ready"
        seen = eventually(lambda: terminal.run("trace slow-1"), r"outcome +cancelled")
        assert re.search(r"^billed_tokens +\d+$", seen, re.M)
        assert job in terminal.run(f"trace {job}")
        assert "nobody knows a request 'never'" in terminal.run("trace never")
        assert eventually(lambda: terminal.run("leases"), "no lease")

    def test_help_and_mistakes(self, terminal: Terminal) -> None:
        shown = terminal.run("help")
        for name in ("tree", "ps", "top", "inspect", "stats", "restart", "drain", "trace", "eval"):
            assert re.search(rf"^{name}\b", shown, re.M)
        assert "turn new requests away" in terminal.run("help drain")
        assert "did you mean tree or trace?" in terminal.run("tre")
        assert "did you mean control/scheduler?" in terminal.run("inspect schedluer")
        assert "write `restart ID`" in terminal.run("restart")
        assert "is never closed" in terminal.run("stats 'x")


def rows_of(table: str) -> dict[str, list[str]]:
    """A table by its first column."""
    words = [re.split(r"  +", line) for line in table.splitlines()[1:]]
    return {first: rest for first, *rest in words}


class TestActing:
    """Each of these is in the audit log twice: before it began, and with what came of it."""

    @pytest.fixture
    def done(self, node: Node, terminal: Terminal) -> Callable[..., str]:
        """Types a line, and sees to its two lines in the log."""

        def run(line: str, outcome: str = "done") -> str:
            before = len(audited(node)) if (node.folder / ".tether" / NAME).exists() else 0
            shown = terminal.run(line)
            command, *arguments = line.split(maxsplit=2)
            told = audited(node)[before:]
            assert len(told) == 2, (line, shown, told)
            began, ended = told
            assert (began.outcome, began.id) == ("begins", ended.id)
            assert re.match(outcome, ended.outcome), ended
            for entry in told:
                assert entry.command == command
                assert list(entry.arguments) == " ".join(arguments).split()
                assert (entry.who.uid, entry.who.pid) == (os.getuid(), terminal.process.pid)
                assert entry.node == node.state["node"]
            assert began.at <= ended.at
            return shown

        return run

    def test_suspended_actors_keep_requests_waiting(
        self, node: Node, terminal: Terminal, done: Callable[..., str]
    ) -> None:
        assert "control/scheduler is suspended" in done("suspend scheduler")
        assert re.search(r"scheduler +suspended", terminal.run("tree"))
        with httpx2.Client(timeout=0.5) as client, pytest.raises(httpx2.TimeoutException):
            client.post(f"{node.url}/v1/chat/completions", json=body("waits"), headers=node.headers)
        assert re.search(r"^state +suspended$", terminal.run("inspect scheduler"), re.M)
        assert "control/scheduler is running" in done("resume scheduler")
        complete(node, "served again")

    def test_draining(self, node: Node, terminal: Terminal, done: Callable[..., str]) -> None:
        assert re.search(r"workers/echo-0.n1 +draining", done("drain echo-0.n1"))
        eventually(lambda: terminal.run("workers"), r"echo-0.n1 +draining")
        for number in range(4):
            complete(node, f"elsewhere {number}", f"elsewhere-{number}")
            trace = terminal.run(f"trace elsewhere-{number}")
            assert re.search(r"^worker +echo-1.n1$", trace, re.M), trace
        with Streaming(node, "goes-on") as lines:
            assert re.search(r"doors/0 +draining", done(f"drain {node.state['node']}"))
            complete(node, "turned away", status=503)
            assert httpx2.get(f"{node.url}/readyz").status_code == 503
            for _ in range(6):
                assert "error" not in next(lines)
            assert re.search(r"doors/0 +running", done(f"drain {node.state['node']} off"))
        eventually(lambda: terminal.run("workers"), r"echo-0.n1 +ready(?s:.*)echo-1.n1 +ready")
        complete(node, "let in again")
        assert "can't be drained" in done("drain roster", "refused")

    def test_breakers(self, node: Node, terminal: Terminal, done: Callable[..., str]) -> None:
        assert re.search(r"echo-0.n1 +echo@1 +automatic +closed", terminal.run("breaker ls"))
        for worker in ("echo-0.n1", "echo-1.n1"):
            assert re.search(rf"{worker} +echo@1 +forced_open", done(f"breaker open {worker}"))
        complete(node, "no worker may", status=503)
        assert "tether_breaker_state" in terminal.run("stats scheduler breaker_state")
        assert re.search(r"echo-1.n1 +echo@1 +disabled", done("breaker disable echo-1.n1 echo@1"))
        complete(node, "one may")
        for worker in ("echo-0.n1", "echo-1.n1"):
            assert re.search(rf"{worker} +echo@1 +automatic", done(f"breaker close {worker}"))
        assert "did you mean" in done("breaker open ech-0", "refused")

    def test_policies(self, node: Node, terminal: Terminal) -> None:
        complete(node, "takes one from the bucket")
        rows = script(node, "policies echo")
        assert [(row["model"], row["place"], row["policy"]) for row in rows] == [
            ("echo@1", place, policy)
            for place, policy in (
                (1, "rate"), (2, "deadline"), (3, "retry"), (4, "breaker"), (4, "breaker"),
                (5, "bulkhead"), (5, "bulkhead"),
            )
        ]  # fmt: skip
        rate, deadline, retry, breaker, *_, slots = rows
        assert (rate["options"], rate["from"]) == ({"per_s": 500, "burst": 1000}, "its policy")
        assert re.fullmatch(r"(9\d\d|1000) left", rate["state"])
        assert (deadline["from"], deadline["at"]) == ("[policies]", "control/gateways/0")
        assert (retry["options"]["attempts"], retry["options"]["refusals"]) == (3, 8)
        assert re.fullmatch(r"\d+ of 10\d retries spent", retry["state"])
        assert (breaker["at"], breaker["state"][:6]) == ("control/scheduler", "closed")
        assert (slots["at"], slots["options"]) == ("echo-1.n1", {"at_once": 64})
        assert re.search(
            r"echo@1 +1 +rate +control/gateways/0 +per_s 500", terminal.run("policies")
        )
        assert "did you mean echo@1?" in terminal.run("policies ehco@1")

    def test_log_levels(self, node: Node, terminal: Terminal, done: Callable[..., str]) -> None:
        assert re.search(r"control/roster +DEBUG +INFO", done("loglevel roster debug"))
        assert re.search(r"control/roster +DEBUG", terminal.run("loglevel"))
        shown = done("loglevel INFO")
        assert re.search(r"control/roster +INFO +DEBUG", shown)
        assert re.search(r"workers/echo-1.n1 +INFO +INFO", shown)
        assert "it is one of DEBUG" in done("loglevel roster LOUD", "failed")

    def test_contracts(self, node: Node, done: Callable[..., str]) -> None:
        assert json.loads(done("send scheduler ShowBreakers"))["answer"] == "BreakerStates"
        assert '"draining"' in done('send echo-1.n1 Drain {"on":true}')
        assert '"running"' in done('send echo-1.n1 Drain {"on":false}')
        assert "can't be sent" in done("send echo-1.n1 StopChild", "refused")
        assert "has no field off" in done('send echo-1.n1 Drain {"off":1}', "refused")

    def test_kill_restart_and_stop(
        self, node: Node, terminal: Terminal, done: Callable[..., str]
    ) -> None:
        before = node.tree()
        killed = before["workers/echo-0.n1"]["pid"]
        assert f"killed pid {killed} of workers/echo-0.n1" in done("kill echo-0.n1")
        eventually(
            lambda: terminal.run("tree"), r"echo-0.n1 +running .*restarts 1 .*last exit: vanished"
        )
        shown = done("restart reservation")
        assert re.search(r"control/reservation runs as pid \d+", shown)
        after = node.tree()
        assert after["control/roster"]["pid"] == before["control/roster"]["pid"]
        for path in ("control/reservation", "control/scheduler", "control/gateways"):
            assert after[path]["pid"] != before[path]["pid"], "rest_for_one: those after it as well"
        assert "workers/echo-1.n1 is stopped" in done("stop echo-1.n1")
        assert re.search(r"echo-1.n1 +stopped", terminal.run("tree"))
        assert "has no process" in done("suspend echo-1.n1", "refused")
        assert "workers/echo-1.n1 runs as pid" in done("restart echo-1.n1")
        eventually(lambda: terminal.run("workers"), r"echo-1.n1 +ready")
        complete(node, "all there again")
        assert "`tether down`" in done("kill root", "refused")

    def test_eval_needs_both_flags(self, node: Node, done: Callable[..., str]) -> None:
        assert "eval is off" in done("eval 1+1", "refused")
        (row,) = script(node, 'eval (await ask("roster", Inspect())).actor', "--allow-eval")
        assert row == {"value": "'Roster'"}
        assert audited(node)[-1].arguments == ('(await ask("roster", Inspect())).actor',)
        state = node.folder / ".tether" / "node.json"
        told = state.read_bytes()
        state.write_bytes(told.replace(b'"allow_eval":true', b'"allow_eval":false'))
        try:
            assert script(node, "eval 1", "--allow-eval", code=1) == []
        finally:
            state.write_bytes(told)


class TestTyping:
    @pytest.mark.parametrize(
        "steps",
        [
            [("insp", "inspect"), (" ros", "inspect control/roster")],
            [("breaker op", "breaker open"), (" echo-1.n1", "breaker open echo-1.n1"),
             (" ech", "breaker open echo-1.n1 echo@1")],
            [("drain doors/", "drain doors/0")],
            [("loglevel roster deb", "loglevel roster DEBUG")],
            [("send roster ShowSta", "send roster ShowStats")],
            [("tree; stats workers/echo-0.n1", "tree; stats workers/echo-0.n1")],
        ],
    )  # fmt: skip
    def test_completion(self, terminal: Terminal, steps: list[tuple[str, str]]) -> None:
        terminal.clear()
        for keys, line in steps:
            terminal.complete(keys, line)
        terminal.type("\x03")
        terminal.expect(r"\n")
        terminal.prompted()

    def test_history_is_kept_for_its_owner_only(self, node: Node, terminal: Terminal) -> None:
        terminal.run("workers # remember me")
        terminal.clear()
        terminal.type("\x1b[A")
        terminal.expect("remember me")
        terminal.type("\x03")
        terminal.prompted()
        home = node.folder / ".tether"
        assert "+workers # remember me" in (home / "shell_history").read_text()
        for name in ("shell_history", NAME):
            assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name


class TestScripts:
    def test_lines_and_exit_codes(self, node: Node, tmp_path: Path) -> None:
        found = script(node, "workers; breaker ls")
        assert [row.get("id") or row["worker"] for row in found] == ["echo-0.n1", "echo-1.n1"] * 2
        done = tether("shell", "-c", "workers; inspect nobody; workers", cwd=node.folder)
        assert done.returncode == 2
        assert done.stdout.count("echo-0.n1") == 1, "a script ends with its first mistake"
        assert done.stderr.startswith("tether: there is no 'nobody' here")
        assert tether("shell", "-c", "trace nothing", cwd=node.folder).returncode == 1
        write_config(tmp_path)
        done = tether("shell", "-c", "workers", cwd=tmp_path)
        assert done.returncode == 1
        assert "`tether up` starts one" in done.stderr


class TestOperators:
    """From another machine, with a certificate in place of a socket's owner."""

    def test_an_operator_looks_and_acts(self, node: Node) -> None:
        def run(line: str) -> str:
            done = tether(
                "shell", "--node", "n1", "--identity", "ca/nodes/operator:alice", "-c", line,
                cwd=node.folder,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        shown = run("tree; ps; workers; sessions; breaker ls; inspect roster; stats roster")
        assert re.search(rf"roster +running .*pid {node.tree()['control/roster']['pid']}", shown)
        before = len(audited(node))
        shown = run("suspend roster; tree; resume roster; drain echo-0.n1 off; kill echo-0.n1")
        assert re.search(r"roster +suspended", shown)
        told = audited(node)[before:]
        assert [entry.command for entry in told[::2]] == ["suspend", "resume", "drain", "kill"]
        assert [entry.outcome for entry in told] == ["begins", "done"] * 4
        assert {entry.who.certificate for entry in told} == {"operator:alice"}

    def test_who_is_none_may_not(self, node: Node) -> None:
        def tried(identity: str) -> str:
            done = tether(
                "shell", "--node", "n1", "--identity", identity, "-c", "tree", cwd=node.folder
            )
            assert (done.returncode == 0) == (done.stdout != "")
            return done.stderr

        assert "is of a node, n1, and no operator's" in tried("ca/nodes/n1")
        assert "can't be used" in tried("nowhere")
        revoked = tether("ca", "revoke", "operator:bob", "--ca", "ca", cwd=node.folder)
        assert revoked.returncode == 0, revoked.stderr
        until = time.monotonic() + WAIT_S  # the node looks at its list once a second
        while "or refuses the certificate of operator:bob" not in tried("ca/nodes/operator:bob"):
            assert time.monotonic() < until, "a revoked operator is still let in"
