"""Thespian's own test-suite, on our system base and on multiprocTCPBase in one run.

The suite comes with the package (`thespian.test`) and is parametrized over system bases in
its `__init__`; here the list is exchanged. It sends objects and starts classes of its own, and
loads source, which no node does. So our base is given another system road here, which pickles, and
starts any class: nothing of that is in the packages that are installed. The wire is otherwise the
same.

multiprocTCPBase forks its actors in 20 ms, and the suite counts on that: it gives new actors
a quarter of a second, and starts 275 of them within 20 seconds. So ours start from a fork
server here, which never ran a loop; with `--spawn` they start as in production, at 150 to 300 ms
of processor time each (they import pytest), and what then fails more, fails for time.

Run: `scripts/prove thespian [--json] [--spawn] [pytest arguments]`, some 20 minutes.
"""

from __future__ import annotations

import json
import multiprocessing.forkserver
import os
import pickle
import subprocess
import sys
import tempfile
import types
from collections import defaultdict
from multiprocessing import popen_forkserver
from pathlib import Path
from typing import Any

import pytest

import supervision.runtime.thespian_base as tether_base
from supervision.runtime.address import Address
from supervision.runtime.spawning import SpawnContext, SpawnedProcess
from supervision.runtime.system_road import SystemRoad
from supervision.runtime.transport import Transport

# The suite gives a port and a convention to bases whose name begins with this.
SUBJECT = "multiprocTCPTether"
OTHER = "multiprocTCPBase"
# One test counts on the buffer of a pipe, and many wait a quarter of a second for an actor,
# which therefore mustn't compile its imports.
_DISTURBING = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
_SPAWN = "TETHER_SUITE_SPAWN"
_NEITHER = "no base"  # tests of Thespian's parts that start no multiprocess base

_fixture = pytest.fixture


def _exchanged(*args: Any, **kwargs: Any) -> Any:
    if OTHER in (kwargs.get("params") or ()):
        kwargs["params"] = [SUBJECT, OTHER]
    return _fixture(*args, **kwargs)


_server = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]


class _Popen(popen_forkserver.Popen):
    """A process forked by the fork server."""

    def _launch(self, process_obj: Any) -> None:
        main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
        try:  # else every actor would import the starter's
            super()._launch(process_obj)
        finally:
            sys.modules["__main__"] = main


class ForkedProcess(SpawnedProcess):
    """As ours, but for how it starts: all processes of the run share one fork server."""

    server: str | None = None

    def start(self) -> None:
        _server.ensure_running()
        self.server = _server._forkserver_address
        super().start()

    def is_alive(self) -> bool:
        if not super().is_alive() or self.pid is None:
            return super().is_alive()
        # The fork server reaps it, and says so a moment after its pidfd has.
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state not in "ZX"

    def run(self) -> None:
        # multiprocessing would start another one for each process that starts processes.
        _server._forkserver_address = self.server
        _server.ensure_running = lambda: None  # type: ignore[method-assign]
        super().run()

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802
        return _Popen(process_obj)


class ForkContext(SpawnContext):
    """Gives Thespian such processes."""

    Process = ForkedProcess


_context = ForkContext()


class PicklingRoad(SystemRoad):
    """Says anything to anybody, and believes it."""

    def write(self, message: Any, to: Address) -> bytes:
        return pickle.dumps(message, 5)

    def read(self, sender: Address, payload: bytes) -> Any:
        return pickle.loads(payload)


class SuiteTransport(Transport):
    """Has such a road, in all processes of a node, and lets any class be started."""

    road = PicklingRoad

    def allows(self, name: str, node: str = "") -> bool:
        return True


class ActorSystemBase(tether_base.ActorSystemBase):
    """Our base, in the mode that the suite needs."""

    transportType = SuiteTransport  # noqa: N815

    @property
    def mpcontext(self) -> Any:
        return super().mpcontext if os.environ.get(_SPAWN) else _context

    @mpcontext.setter
    def mpcontext(self, _: Any) -> None:
        pass

    def __init__(self, system: Any, logDefs: Any = None) -> None:  # noqa: N803
        system.capabilities["Max Frame"] = 256 << 20  # the suite sends up to 100 MB
        system.capabilities["Run Dir"] = os.environ["TETHER_SUITE_RUN_DIR"]
        super().__init__(system, logDefs)


class Tally:
    """A pytest plugin that counts outcomes by base."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: Any) -> None:
        base = next((b for b in (SUBJECT, OTHER) if f"[{b}" in report.nodeid), _NEITHER)
        known = self.outcomes[base].get(report.nodeid)
        news = report.when == "call" or report.outcome != "passed"
        if news and known in (None, "passed"):
            self.outcomes[base][report.nodeid] = report.outcome


def main(arguments: list[str]) -> int:
    """Runs the suite; 0 if our base fails two at most: those that parse the text of an address."""
    if any(name in os.environ for name in _DISTURBING):
        kept = {name: value for name, value in os.environ.items() if name not in _DISTURBING}
        with tempfile.TemporaryDirectory(prefix="tt") as cache:
            kept["PYTHONPYCACHEPREFIX"] = cache
            command = [sys.executable, "-m", "bench.thespian_suite", *arguments]
            return subprocess.run(command, env=kept, check=False).returncode
    as_json = "--json" in arguments
    rest = [a for a in arguments if a not in ("--json", "--spawn")]
    if "--spawn" in arguments:
        os.environ[_SPAWN] = "1"
    multiprocessing.forkserver.set_forkserver_preload(["bench.thespian_suite", "thespian.test"])
    sys.modules[f"thespian.system.{SUBJECT}"] = sys.modules[__name__]
    pytest.fixture = _exchanged  # for some modules of the suite as well, so for all of the run
    import thespian.test

    tally = Tally()
    folder = Path(thespian.test.__file__).parent
    with tempfile.TemporaryDirectory(prefix="tt") as run_dir:
        os.environ["TETHER_SUITE_RUN_DIR"] = run_dir
        chosen = [a for a in rest if ".py" in a]
        targets = [str(folder / a) for a in chosen] or [str(folder)]
        options = [a for a in rest if a not in chosen]
        pytest.main(
            [
                "-q",
                "-p",
                "no:cacheprovider",
                "-c",
                os.devnull,
                f"--rootdir={folder}",
                "--timeout=120",
                *options,
                *targets,
            ],
            plugins=[tally],
        )
    failed: dict[str, list[str]] = {}
    for base in (SUBJECT, OTHER, _NEITHER):
        outcomes = tally.outcomes[base]
        failed[base] = sorted(test for test, outcome in outcomes.items() if outcome == "failed")
        passed = sum(outcome == "passed" for outcome in outcomes.values())
        skipped = sum(outcome == "skipped" for outcome in outcomes.values())
        if as_json:
            print(
                json.dumps(
                    {
                        "bench": "thespian_suite",
                        "subject": base,
                        "passed": passed,
                        "failed": len(failed[base]),
                        "skipped": skipped,
                        "which": failed[base],
                    }
                )
            )
        else:
            print(f"{base:20} passed {passed:4}  failed {len(failed[base]):3}  skipped {skipped:3}")
            for test in failed[base]:
                print(f"    failed: {test}")
    return 0 if len(failed[SUBJECT]) <= 2 else 1


if __name__ == "__main__":
    from bench.thespian_suite import main as run  # once, under the name that processes import

    sys.exit(run(sys.argv[1:]))
