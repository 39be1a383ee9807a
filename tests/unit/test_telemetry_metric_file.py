"""Metrics on a disk that is full, becomes full, and has room again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervision.telemetry import metric_file
from supervision.telemetry.metric_file import MetricFile, entries
from tests.support.small_disk import python_on_disk

BEGIN = """
import json, os, sys, time
from pathlib import Path
from tests.support.small_disk import fill
home = Path(sys.argv[1])
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(home / "metrics")
(home / "metrics").mkdir()
"""
SCRAPED = """
def scraped(name):
    from tether.node.exposition import exposition
    lines = exposition().decode().splitlines()
    return [float(l.rpartition(" ")[2]) for l in lines if l.startswith(name)]
"""
BORN_ON_A_FULL_DISK = (
    BEGIN
    + SCRAPED
    + """
ballast = fill(home)
from supervision.metrics import child_restarts
from supervision.telemetry import disk, logs, metric_file
from tether.http.metrics import http_hangups
for n in range(300):  # far more than fits into what was there at first
    child_restarts.labels(f"child/{n}").inc()
http_hangups.inc(2)
unwritten = disk.drain(logs.get("x"))["metrics"]
during = scraped("tether_http_hangups_total")
ballast.unlink()
metric_file.MetricFile._again = 0.0
http_hangups.inc(3)
after = scraped("tether_http_hangups_total"), sum(scraped("tether_child_restarts_total"))
print(json.dumps([unwritten > 0, during, *after]))
"""
)
GROWS_ON_A_FULL_DISK = (
    BEGIN
    + SCRAPED
    + """
from supervision.metrics import child_restarts
from supervision.telemetry import metric_file
from tether.http.metrics import http_hangups
http_hangups.inc(2)
ballast = fill(home)
http_hangups.inc(3)  # the disk has promised the room of this one
known = scraped("tether_http_hangups_total")
for n in range(300):
    child_restarts.labels(f"child/{n}").inc()
scraped("tether_")  # of files that are not all there
ballast.unlink()
metric_file.MetricFile._again = 0.0
http_hangups.inc(4)
print(json.dumps([known, scraped("tether_http_hangups_total"),
                  sum(scraped("tether_child_restarts_total"))]))
"""
)


def test_a_process_born_on_a_full_disk_lives_and_is_seen_afterwards(tmp_path: Path) -> None:
    said = python_on_disk(tmp_path / "disk", "256k", BORN_ON_A_FULL_DISK)
    assert json.loads(said.splitlines()[-1]) == [True, [], [5.0], 300.0]


def test_a_process_that_outgrows_a_full_disk_lives_and_loses_nothing(tmp_path: Path) -> None:
    said = python_on_disk(tmp_path / "disk", "256k", GROWS_ON_A_FULL_DISK)
    assert json.loads(said.splitlines()[-1]) == [[5.0], [9.0], 300.0]


def test_a_folder_that_is_gone_ends_nobody(tmp_path: Path) -> None:
    script = "from tether.http.metrics import http_hangups; http_hangups.inc()"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "gone")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_all_of_it_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    file = MetricFile(str(path))
    for number in range(2000):
        file.write_value(f"key {number}", float(number), 0.0)
    there = path.stat()
    assert there.st_blocks * 512 >= there.st_size > 2000 * 24
    read = {key: value for key, value, _, _ in MetricFile.read_all_values_from_file(str(path))}
    assert read == {f"key {number}": float(number) for number in range(2000)}


def test_who_has_the_pid_of_another_goes_on_from_its_counts(tmp_path: Path) -> None:
    path = str(tmp_path / "counter_1.db")
    first = MetricFile(path)
    for number in range(2000):
        first.write_value(f"key {number}", 1.0, 0.0)
    first.close()
    second = MetricFile(path)
    assert second.read_value("key 1999")[0] == 1.0
    second.write_value("key 1999", 2.0, 0.0)
    second.write_value("another", 3.0, 0.0)
    found = {key: value for key, value, _, _ in MetricFile.read_all_values_from_file(path)}
    assert (found["key 0"], found["key 1999"], found["another"]) == (1.0, 2.0, 3.0)
    assert len(found) == 2001


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_a_file_that_is_cut_off_is_read_as_far_as_it_is_whole(tmp_path: Path, length: int) -> None:
    path = tmp_path / "counter_1.db"
    file = MetricFile(str(path))
    for number in range(8):
        file.write_value("k" * (number + 1), float(number), 0.0)
    whole = entries(metric_file.read(str(path)))
    cut = entries(metric_file.read(str(path))[:length])
    assert cut == whole[: len(cut)]
    assert len(whole) == 8
