"""Lines that others may cause at will: few, and all of them counted."""

from __future__ import annotations

import ast
from collections.abc import Mapping

import pytest
import structlog.testing

from supervision.telemetry.bounded_log import BoundedLog
from tests.unit.test_house_rules import sources

# What faces strangers and other nodes. A line there is of a `BoundedLog`, or stands below.
FACING = ("supervision/runtime/", "supervision/follower.py", "actors/roster/", "actors/depot/",
          "tether/http/")  # fmt: skip
OURS = {
    # of this process and its own children
    "a watcher failed", "actor could not start", "actor could not stop in order", "actor exits",
    "a spare hangs and is killed", "a process could not be started", "no spare could be started",
    "ends because the process above it is gone", "shuts down because its owner is gone",
    "tasks outlived their actor", "worker lost", "serving",
    "could not look after the connections with other nodes",
    "could not look after the door's certificate",
    # of this node's files and hardware
    "identity loaded", "the node's identity can't be read", "can't read the last epoch",
    "the GPU's driver doesn't answer any more", "the door has a new certificate",
    "the door's new certificate is kept out", "the door's certificate ends soon",
    "a revocation list counts here",
    "a revocation isn't in the audit log", "a refusal is not in the audit log",
    "can't ask other nodes for artifacts",
    # of its operators, and what the authority has signed
    "standing changed", "took over a revocation list",
    # each with a `LineBudget` of its own
    "refused a contract", "a message was dropped", "a handler failed", "refused a system message",
    "an announcement was refused", "a report of another sender",
    "a revocation list can't be taken over", "a worker of another node isn't taken",
    # of an order, which is carried out once
    "a worker could not be told to drain",
    # by the gateway of the own node, or of one with the role control, and only when it ends
    "gateway lost",
}  # fmt: skip


def unbounded(sources: Mapping[str, str]) -> list[str]:
    """Lines of the log, but for debugging, without a budget and not known to be ours."""
    found = []
    for path, text in sources.items():
        if not path.startswith(FACING):
            continue
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
                and node.func.attr != "debug"
            ):
                words = [w.value for w in ast.walk(node) if isinstance(w, ast.Constant)]
                said = next(word for word in words if isinstance(word, str))
                if not said.startswith(tuple(OURS)):
                    found.append(f"{path}:{node.lineno}: {said}")
    return found


def test_what_others_cause_has_a_budget():
    assert unbounded(sources()) == []


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ('log.warning("a stranger has come")', False),
        ('heard.warning("a stranger has come", "")', True),
        ('log.debug("a stranger has come")', True),
        ('log.info("serving", port=1)', True),
    ],
)
def test_a_line_without_a_budget_is_found(line: str, good: bool):
    assert (unbounded({"supervision/runtime/x.py": line}) == []) is good
    assert not unbounded({"actors/worker/x.py": line})


def test_who_repeats_himself_is_written_down_once_and_counted():
    now = 0.0
    heard = BoundedLog("here", 60.0, 3, clock=lambda: now)
    with structlog.testing.capture_logs() as lines:
        for _ in range(1000):
            heard.warning("closed a connection", "n2", by="n2", reason="x")
        heard.info("closed a connection", "n3")
        for number in range(1000):
            heard.error("refused", number)
        assert len(lines) == 3, "whatever they are called"
        now = 61.0
        heard.warning("closed a connection", "n2", by="n2")
    assert lines[0] == {
        "event": "closed a connection", "module": "here", "log_level": "warning", "by": "n2",
        "reason": "x",
    }  # fmt: skip
    assert lines[3]["unsaid"] == 999


def test_a_fault_has_its_traceback():
    heard = BoundedLog("here")
    with structlog.testing.capture_logs() as lines:
        try:
            raise ValueError
        except ValueError:
            heard.exception("broke", "")
    assert lines[0]["exc_info"] is True
