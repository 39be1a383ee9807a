"""Files of a spool: what was written is read, whatever was cut or has changed meanwhile."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.stores.spool_file import MAGIC, RECORD_MAX, SpoolFile, files, held_bytes
from supervision.errors import BadRequest

RECORDS = [b"one", b"two" * 100, b"three"]


def written(folder: Path, *records: bytes) -> Path:
    """A file whose writer is gone."""
    file = SpoolFile.make(folder / "1.spool")
    file.append(records)
    file.close()
    return file.path


def taken(path: Path) -> tuple[SpoolFile, int]:
    found = SpoolFile.take(path)
    assert found is not None
    return found


def test_what_was_written_is_read_by_who_comes_next(tmp_path: Path) -> None:
    path = written(tmp_path, *RECORDS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files(tmp_path) == [path]
    assert held_bytes(tmp_path) == path.stat().st_size
    file, torn = taken(path)
    assert torn == 0
    first = file.read(file.begin, 2)
    assert (first.records, first.damaged) == (tuple(RECORDS[:2]), 0)
    assert file.read(first.after, 2).records == (RECORDS[2],)
    assert file.read(file.end, 2).records == ()
    file.remove()
    assert files(tmp_path) == []


def test_a_file_whose_writer_lives_is_left_alone(tmp_path: Path) -> None:
    file = SpoolFile.make(tmp_path / "1.spool")
    assert SpoolFile.take(file.path) is None
    file.close()
    other, _ = taken(file.path)
    assert SpoolFile.take(file.path) is None
    other.remove()
    assert SpoolFile.take(file.path) is None, "it is gone"


@given(cut=st.integers(1, 40))
def test_a_torn_tail_is_cut_off(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.mktemp("torn"), b"first", bytes(range(32)))
    os.truncate(path, path.stat().st_size - cut)
    file, torn = taken(path)
    assert torn == 40 - cut
    assert file.read(file.begin, 9).records == (b"first",)
    file.append([b"later"])
    assert file.read(file.begin, 9).records == (b"first", b"later")
    file.close()


@pytest.mark.parametrize("at", [0, 1])
def test_a_record_that_has_changed_is_passed_over_and_said(tmp_path: Path, at: int) -> None:
    path = written(tmp_path, *RECORDS)
    content = bytearray(path.read_bytes())
    content[content.index(RECORDS[at])] ^= 1
    path.write_bytes(content)
    file, torn = taken(path)
    page = file.read(file.begin, 9)
    assert page.records == tuple(r for n, r in enumerate(RECORDS) if n != at)
    assert page.damaged == 8 + len(RECORDS[at])
    assert torn == 0
    file.close()


def test_what_a_failed_write_has_left_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SpoolFile.make(tmp_path / "1.spool")

    def fails(_: int) -> None:
        raise OSError("the disk fails")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(OSError, match="the disk fails"):
            file.append([b"a long record"])
    assert file.read(file.begin, 9).records == ()
    file.append([b"short"])
    assert file.read(file.begin, 9).records == (b"short",)
    file.close()
    file, torn = taken(file.path)
    assert torn > 0
    assert file.read(file.begin, 9).records == (b"short",)
    file.close()


def test_an_emptied_file_begins_again(tmp_path: Path) -> None:
    file = SpoolFile.make(tmp_path / "1.spool")
    file.append(RECORDS)
    file.empty()
    assert file.path.stat().st_size == len(MAGIC) == file.end
    file.append([b"next"])
    assert file.read(file.begin, 9).records == (b"next",)
    file.close()


@pytest.mark.parametrize("record", [b"", bytes(RECORD_MAX + 1)])
def test_a_record_has_bounds(tmp_path: Path, record: bytes) -> None:
    file = SpoolFile.make(tmp_path / "1.spool")
    with pytest.raises(BadRequest, match="1 to 65536 bytes"):
        file.append([record])
    file.close()


def test_another_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "1.spool"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="no spool file"):
        SpoolFile.take(path)
