"""What commands show: tables, objects, and the file that says who did what."""

from __future__ import annotations

import json
import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from actors.contracts import BreakerState, BreakerStates
from supervision.telemetry.audit import Audit, Unwritable, Who, read
from tether.admin.measure import age_s, used
from tether.admin.output import Output, age, fields, plain, said, size, table, together, word


def test_tables_are_aligned_and_programs_get_all() -> None:
    shown = table(("id", "n"), [{"id": "a", "n": 5, "more": 1}, {"id": "long", "n": 12}], empty="-")
    assert tuple(shown.lines()) == ("id     n", "a      5", "long  12")
    assert shown.text(as_json=False) == "id     n\na      5\nlong  12\n"
    rows = [json.loads(row) for row in shown.text(as_json=True).splitlines()]
    assert rows == [{"id": "a", "n": 5, "more": 1}, {"id": "long", "n": 12}]
    assert table(("id",), [], empty="no worker").text(as_json=False) == "no worker\n"
    assert table(("id",), [], empty="no worker").text(as_json=True) == ""


def test_ids_and_numbers_are_whole_on_a_terminal_of_any_width() -> None:
    row = {"job": "0" * 36, "tenant": "acme", "n": 1234567890, "why": "words that go on and on"}
    shown = table(tuple(row), [row], empty="-")
    for width in (10, 60, 1000):
        head, first, *more = shown.text(as_json=False, width=width).splitlines()
        assert head.split() == list(row)
        assert first.split()[:4] == ["0" * 36, "acme", "1234567890", "words"]
        assert " ".join([first, *more]).split()[3:] == row["why"].split()
        assert bool(more) == (width < 1000)


def test_fields_leave_out_what_is_empty() -> None:
    row = {"id": "a", "gone": "", "none": None, "zero": 0, "inner": {"x": 1, "y": 2}, "secret": 1}
    shown = fields(row, hidden=("secret",))
    assert tuple(shown.lines()) == ("id     a", "zero   0", "inner  x 1, y 2")
    assert json.loads(shown.text(as_json=True)) == row


def test_sentences() -> None:
    shown = together([said("done", id="a"), Output()])
    assert shown.text(as_json=False) == "done\n"
    assert json.loads(shown.text(as_json=True)) == {"id": "a", "said": "done"}


@pytest.mark.parametrize(
    ("value", "cell"),
    [(None, ""), (True, "yes"), (False, ""), (1.0, "1"), (0.12345, "0.123"), (["a", 1], "a, 1"),
     (1234567890.0, "1234567890"), ("two\nlines", "two lines")],
)  # fmt: skip
def test_cells(value: object, cell: str) -> None:
    assert word(value) == cell


def test_units() -> None:
    assert [size(n) for n in (0, 1023, 1 << 20, 5 << 40)] == ["0 B", "1023 B", "1 MiB", "5.0 TiB"]
    assert age(3723.9) == "1:02:03"


def test_contracts_become_objects() -> None:
    state = BreakerState(worker_id="w", model_ref="m@1", mode="automatic", state="closed")
    row = plain(BreakerStates(breakers=(state,)))
    assert row["breakers"][0]["worker_id"] == "w"
    assert plain(b"\x01") == "01"
    json.dumps(row)


def test_what_a_process_uses() -> None:
    mine = used(os.getpid())
    assert mine is not None
    assert mine.cpu_s > 0
    assert mine.memory_bytes > 1 << 20
    assert 0 <= age_s(mine.began) < 86400
    assert used(2**22 + 1) is None  # above the largest pid of Linux


# ---- the audit log

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ALICE = Who(uid=1000, user="alice", pid=7)


def log_in(folder: Path, **more: int) -> Audit:
    return Audit(folder, ALICE, "n1", now=lambda: NOW, **more)


def test_each_command_is_written_twice(tmp_path: Path) -> None:
    audit = log_in(tmp_path)
    outcome = audit.begins("restart", ["workers/echo"])
    (began,) = read(audit.path)
    assert began.outcome == "begins"
    outcome("done")
    first, second = read(audit.path)
    assert (first.id, second.outcome) == (second.id, "done")
    assert (first.who, first.at, first.node) == (ALICE, NOW, "n1")
    assert (first.command, first.arguments) == ("restart", ("workers/echo",))
    assert stat.S_IMODE(audit.path.stat().st_mode) == 0o600


def test_a_file_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    audit = log_in(tmp_path)
    audit.path.touch(0o644)
    audit.begins("kill", ["x"])
    assert stat.S_IMODE(audit.path.stat().st_mode) == 0o600


def test_it_is_rotated_and_nothing_is_lost_before_the_oldest(tmp_path: Path) -> None:
    audit = log_in(tmp_path, max_bytes=1000, kept=2)
    for number in range(40):
        audit.begins("send", [str(number)])
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.lock"]
    numbers = []
    for name in ("audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"):
        assert (tmp_path / name).stat().st_size <= 1000
        numbers += [int(entry.arguments[0]) for entry in read(tmp_path / name)]
    assert numbers == list(range(numbers[0], 40))
    assert len(numbers) >= 8


def test_long_arguments_are_cut(tmp_path: Path) -> None:
    audit = log_in(tmp_path)
    audit.begins("eval", ["x" * 100_000])
    assert audit.path.stat().st_size < 10_000


def test_many_at_once_keep_their_lines_whole(tmp_path: Path) -> None:
    def write(name: str) -> None:
        audit = log_in(tmp_path, max_bytes=20_000, kept=50)
        for number in range(50):
            audit.begins("send", [name, str(number)])("done")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    entries = [entry for path in files for entry in read(path)]
    assert len(entries) == 4 * 50 * 2
    assert len({entry.id for entry in entries}) == 4 * 50


def test_what_cannot_be_written_down_is_not_done(tmp_path: Path) -> None:
    with pytest.raises(Unwritable, match="nothing is done"):
        log_in(tmp_path / "gone").begins("kill", ["x"])
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unwritable, match="nothing is done"):
        log_in(tmp_path).begins("kill", ["x"])
    assert not (tmp_path / "elsewhere").exists()
