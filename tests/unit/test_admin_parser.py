"""Lines of the shell: how they are cut, what may follow them, whom they mean."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.contracts import SetBreaker
from actors.contracts.operating import Drain
from supervision.contracts import ChildKind, ChildStatus, Tree, TreeNode, known
from tether.admin.commands import all_commands, explained, named, overview
from tether.admin.completing import Known, completions
from tether.admin.mutations import SENDABLE, made
from tether.admin.names import find, nearest
from tether.admin.parser import Misspelt, commands
from tether.admin.refused import CommandRefused


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", []),
        (" ; ;", []),
        ("tree", [["tree"]]),
        ("workers; leases;", [["workers"], ["leases"]]),
        ("a 'b ; c' \"d \\\" e\" f\\ g", [["a", "b ; c", 'd " e', "f g"]]),
        ("a#b # no more; tree", [["a#b"]]),
        (
            'send x Y {"a": "}; {", "b": []}; t',
            [["send", "x", "Y", '{"a": "}; {", "b": []}'], ["t"]],
        ),
        ("eval 1; 'x", [["eval", "1; 'x"]]),
        ("tree; eval  {1: 2}[1] ", [["tree"], ["eval", "{1: 2}[1]"]]),
    ],
)  # fmt: skip
def test_lines_are_cut(line: str, found: list[list[str]]) -> None:
    assert commands(line) == found


@pytest.mark.parametrize("line", ["a 'b", 'a "b', 'send x Y {"a": 1', 'send x Y {"}', "[[]"])
def test_what_is_never_closed_is_told(line: str) -> None:
    with pytest.raises(Misspelt, match="is never closed"):
        commands(line)


@given(st.lists(st.lists(st.text(min_size=1), min_size=1), max_size=4))
def test_quoted_words_come_back(lines: list[list[str]]) -> None:
    wanted = [["x", *words] for words in lines]
    assert commands("; ".join(shlex.join(words) for words in wanted)) == wanted


@given(st.text())
def test_any_line_is_cut_or_refused(line: str) -> None:
    try:
        found = commands(line)
    except Misspelt:
        return
    assert all(words for words in found)


TREE = Tree(
    nodes=tuple(
        TreeNode(path=path, kind=ChildKind.WORKER, state=ChildStatus.RUNNING, pid=100 + number)
        for number, path in enumerate(
            ("", "control", "control/scheduler", "control/gateways", "control/gateways/0",
             "workers/echo-0", "doors/0", "workers/far.n2")
        )
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("control/scheduler", "control/scheduler"),
        ("scheduler", "control/scheduler"),
        ("echo-0", "workers/echo-0"),
        ("102", "control/scheduler"),
        ("far", "workers/far.n2"),
        ("root", ""),
        ("n1", ""),
        ("doors/0", "doors/0"),
    ],
)
def test_a_child_is_found_by_what_names_it_alone(name: str, path: str) -> None:
    assert find(TREE, name, "n1").path == path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("0", "may be control/gateways/0 or doors/0; write the whole path"),
        ("schedluer", "did you mean control/scheduler?"),
        ("gate", "did you mean control/gateways?"),
        ("nothing like it", "there are root, control, "),
        ("", "there is no ''"),
    ],
)
def test_who_is_not_found_gets_a_hint(name: str, told: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        find(TREE, name, "n1")
    assert told in refused.value.sentence
    assert refused.value.code == 2


def test_hints_are_few() -> None:
    many = [f"w-{number}" for number in range(100)]
    assert nearest("w-1x", many).count("w-") <= 3
    assert nearest("zzz", many, "`workers` shows all") == "`workers` shows all"


KNOWN = Known(
    node="n1",
    children=tuple(node.path for node in TREE.nodes),
    workers={"echo-0": ("echo@1", "other@2")},
)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tr", ["tree", "trace"]),
        ("workers; re", ["restart", "resume"]),
        ("inspect sched", ["control/scheduler"]),
        ("inspect ro", ["root"]),
        ("drain d", ["doors/0"]),
        ("drain n1 ", ["off"]),
        ("breaker ", ["ls", "open", "close", "disable"]),
        ("breaker open ", ["echo-0"]),
        ("breaker open echo-0 o", ["other@2"]),
        ("breaker ls ", []),
        ("loglevel deb", ["DEBUG"]),
        ("loglevel debug ", []),
        ("loglevel root war", ["WARNING"]),
        ("send root ShowT", ["ShowTree"]),
        ("help dra", ["drain"]),
        ("nothing ", []),
        ("tree ", []),
        ("ex", ["exit"]),
    ],
)
def test_completions(line: str, words: list[str]) -> None:
    found = completions(line, all_commands(), KNOWN)
    assert [word for word, _ in found] == words
    typed = "" if line[-1].isspace() else line.split()[-1]
    assert all(there == len(typed) for _, there in found)


def test_every_command_is_explained_and_takes_as_many_words_as_it_says() -> None:
    text = "\n".join(overview().lines())
    for command in all_commands().values():
        assert command.usage in text
        assert next(explained(command.name).lines()) == command.usage
        assert command.usage.split()[0] == command.name
        command.check(["x"] * command.least)
        with pytest.raises(CommandRefused, match="write `"):
            command.check(["x"] * (len(command.kinds) + 1))
    with pytest.raises(CommandRefused, match="did you mean drain"):
        named("drian")


def test_what_writes_says_so() -> None:
    table = all_commands()
    writing = {name for name, command in table.items() if command.writes(["x", "y"])}
    assert writing == {
        "breaker", "restart", "stop", "kill", "suspend", "resume", "drain", "loglevel", "send",
        "eval",
    }  # fmt: skip
    assert not table["breaker"].writes(["ls"])
    assert not table["loglevel"].writes([])


def test_contracts_are_made_of_json() -> None:
    assert made("Drain", '{"on": false}') == Drain(on=False)
    assert made("Drain", "{}") == Drain()
    wanted = SetBreaker(worker_id="w", mode="disabled")
    assert made("SetBreaker", '{"worker_id": "w", "mode": "disabled"}') == wanted


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("StopChild", "{}", "can't be sent"),
        ("Drian", "{}", "did you mean Drain?"),
        ("Drain", '{"off": 1}', "has no field off; it has on"),
        ("Drain", '{"on": 1}', "don't fit"),
        ("Drain", "[1]", "don't fit"),
        ("Drain", "{", "don't fit"),
        ("SetBreaker", "{}", "lacks a field"),
    ],
)
def test_contracts_that_may_not_be_sent(name: str, text: str, told: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        made(name, text)
    assert told in refused.value.sentence
    assert refused.value.code == 2


def test_all_that_may_be_sent_is_there() -> None:
    assert set(SENDABLE) <= {contract.__name__ for contract in known()}
