"""A node from its first file to its last process: start, wait, drain, end.

The launcher is the process of `tether up`. It holds the data directory and the front port, starts
Thespian's Admin (the process by which actors are started) and the root supervisor, and watches
both; it serves nothing itself. Whatever ends it, ends all: SIGTERM in order, a failure at once,
and SIGKILL because the Admin watches its owner.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import msgspec
from prometheus_client import multiprocess

from actors.stores import keys
from actors.stores.database import Database
from actors.stores.database_roles import DatabaseRole
from supervision.contracts import ChildStatus, StartChild, Tree, WatchTree
from supervision.errors import PeerLost, TetherError
from supervision.nodes import ROOT
from supervision.root import Root, stop_tree
from supervision.runtime import Address, Endpoint
from supervision.system import System
from supervision.telemetry import logs, title
from tether.config import Config
from tether.node.capabilities import (
    CONVENTION_PERIODS,
    NotOfCluster,
    capabilities_of,
    check_identity,
)
from tether.node.home import Home, NodeState, read_state
from tether.node.leftovers import end_remains
from tether.node.model_preparation import prepare_models
from tether.node.plan import (
    dsn_of,
    handover_of,
    own_models,
    own_workers,
    tree_of,
)
from tether.node.ports import FrontPort, NodePortTaken, check_free
from tether.node.processes import MARK, adopt_orphans, reap
from tether.node.progress import Progress
from tether.node.readiness import excused, models_here, ready_models
from tether.node.systemd import Notifier

STALE_GRACE_S: Final = 5.0  # for what an earlier node has left, to end before it is killed
END_GRACE_S: Final = 3.0  # likewise, for what this one leaves
MARGIN_S: Final = 5.0  # beyond a deadline that another process keeps by itself
_CREATE_S: Final = 30.0
_ASK_AGAIN_S: Final = 0.1
_TELL_AGAIN_S: Final = 1.0

log = logs.get(__name__)


class NodeFailed(Exception):
    """The node could not start, or broke; one sentence that says why and what to do."""


class Launcher:
    """One run of a node."""

    def __init__(
        self, config: Config, progress: Progress, *, dev: bool = False, allow_eval: bool = False
    ) -> None:
        self._config = config
        self._progress = progress
        self._dev = dev
        self._allow_eval = allow_eval
        self._port = config.http.port
        self._front: FrontPort | None = None
        self._seen = Tree(nodes=())
        self._untold = False  # node.json is behind
        self._undone = False  # the root could not start, and has stopped what had
        self._systemd = Notifier()
        self._home: Home
        self._state: NodeState

    def run(self) -> None:
        """Start the node, and return when it was told to stop and has.

        Raises:
            NodeFailed: it could not start, or broke; nothing of it is left.
            HomeUnusable: its data directory can't be used.
            TetherError: a model can't be used.
            KeyboardInterrupt: it was told to stop before it was up; nothing of it is left.
        """
        config = self._config
        title.show(config.node.id, "up")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _interrupt)
        self._home = Home.claim(config.data_dir, config.node.id, self._end_earlier)
        try:
            self._check()
            prepare_models(config, self._home.run_dir, self._progress)
            self._set_environment()
            adopt_orphans()
            capabilities = capabilities_of(config, self._home.run_dir, owner_pid=os.getpid())
            system = System.start(capabilities)
            try:
                asyncio.run(self._live())
            finally:
                _ignore_signals()  # what follows is bounded, and must not be left halfway
                system.shutdown()
        finally:
            _ignore_signals()
            if self._front:
                self._front.close()
            state = read_state(config.data_dir)
            if killed := end_remains(config.data_dir, state, grace_s=END_GRACE_S):
                log.warning("killed what did not end by itself", pids=killed)
            self._home.close()

    # ---- before anything runs

    def _end_earlier(self, state: NodeState | None) -> None:
        if left := end_remains(self._config.data_dir, state, grace_s=STALE_GRACE_S):
            self._progress.say(f"killed {len(left)} processes that an earlier node had left")

    def _check(self) -> None:
        """Not earlier: what a killed node had left may have held the ports.

        Raises:
            NodeFailed: a port is taken, or the certificate is of no use.
        """
        config = self._config
        try:
            check_identity(config)
            if config.has_role("door"):
                self._front = FrontPort(config.http.host, config.http.port)
                self._port = self._front.number
            if config.member is not None and config.identity_dir is not None:
                keys = f"host and admin_port of node {config.node.id} in nodes"
                check_free(config.member.host, config.node.admin_port, keys)
        except (NotOfCluster, NodePortTaken) as error:
            raise NodeFailed(str(error)) from None

    def _set_environment(self) -> None:
        """What all processes of the node inherit."""
        config, home = self._config, self._home
        os.environ.update(
            {
                MARK: str(config.data_dir),
                "PROMETHEUS_MULTIPROC_DIR": str(home.path / "metrics"),
                "THESPLOG_FILE": str(home.path / "thespian.log"),  # it would be in /tmp
                "HF_HOME": str(config.cache_dir / "huggingface"),
                "HF_HUB_OFFLINE": "1",
                "TORCHINDUCTOR_CACHE_DIR": str(config.cache_dir / "torchinductor"),  # likewise
                "TOKENIZERS_PARALLELISM": "false",
                **CONVENTION_PERIODS,
            }
        )
        if self._dev:
            os.environ["TETHER_LOG_LEVEL"] = "DEBUG"

    # ---- while it runs

    async def _live(self) -> None:
        """From the root supervisor's start to its end."""
        config = self._config
        loop = asyncio.get_running_loop()
        told, lost = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told.set)
        loop.add_signal_handler(signal.SIGCHLD, reap)
        async with Endpoint.connect(
            run_dir=str(self._home.run_dir), node=config.node.id, port=config.node.admin_port
        ) as endpoint:
            if self._front:
                self._front.hand_over(handover_of(config, self._home.run_dir))
            root = await endpoint.create(Root, timeout=_CREATE_S, global_name=ROOT)
            endpoint.watch(endpoint.admin, lost.set)
            endpoint.watch(root, lost.set)
            self._tell(root=str(root))
            serving = asyncio.create_task(self._serve(endpoint, root))
            watching = asyncio.create_task(self._watch(endpoint, root))
            try:
                await _first(serving, told.wait(), lost.wait())
                if serving.done():
                    serving.result()
                if lost.is_set():
                    raise NodeFailed(self._why_lost())
            finally:
                serving.cancel()
                if not lost.is_set() and not self._undone:
                    self._progress.say("stopping: running answers finish first")
                    self._systemd.tell("STOPPING=1", "STATUS=running answers finish first")
                    if self._front:
                        self._front.close()  # its doors hold it until they have drained
                    await self._stop(endpoint, root)
                watching.cancel()
                await asyncio.wait((serving, watching), timeout=MARGIN_S)

    async def _serve(self, endpoint: Endpoint, root: Address) -> None:
        """Start everything, say so, and wait for ever.

        Raises:
            NodeFailed: it did not come up in time, or at all.
        """
        config = self._config
        deadline_s = config.node.start_deadline_s
        options = tree_of(config, self._home.run_dir, port=self._port)
        start = StartChild(
            path="", generation=1, parent="", root="", args=msgspec.msgpack.encode(options)
        )
        try:
            async with asyncio.timeout(deadline_s):
                await endpoint.ask(root, start, timeout=deadline_s + MARGIN_S)
                self._progress.working("all started", "actors", 1.0)
                await self._until_models_answer(endpoint)
        except TimeoutError:
            missing = ", ".join(
                n.path for n in self._seen.nodes if n.state is not ChildStatus.RUNNING
            )
            raise NodeFailed(
                f"the node was not up within {deadline_s:g} s (not running: "
                f"{missing or 'no child; a model does not answer'}); see its log, or raise "
                "node.start_deadline_s"
            ) from None
        except TetherError as error:
            self._undone = True
            why = self._why_lost() if isinstance(error, PeerLost) else error.message
            raise NodeFailed(f"the node could not start: {why}") from error
        if self._dev:
            async with Database(self._state.dsn, size=1) as database:
                made = await keys.create(database, "dev", "tether up --dev")
            self._progress.say(f"key of tenant dev: {made.text}")
        self._tell(root=str(root), ready=True)
        where = f"at {self._state.url}" if self._front else "for other nodes, without a door"
        self._progress.say(f"ready {where}")
        self._systemd.tell("READY=1", f"STATUS=ready {where}")
        await asyncio.Event().wait()

    async def _until_models_answer(self, endpoint: Endpoint) -> None:
        """Those of its own workers, as its door says, or its roster where no gateway of this node
        is behind it; but for what was retired, what no worker has room for before it is asked, and
        what can't be loaded beside others that can."""
        wanted = {model.ref for model in own_models(self._config)}
        while missing := wanted - set(await self._answering(endpoint)):
            done = len(wanted) - len(missing)
            self._progress.working("models answer", "models", done / len(wanted))
            seen = self._seen
            but = await excused(
                endpoint, seen.address("control/roster"), seen.address("control/registry")
            )
            left_out = [ref for ref in sorted(missing) if not but.of(ref)]
            if not left_out:
                break
            if but.settled >= own_workers(self._config) and not but.warm & missing:
                self._progress.say(f"without {', '.join(left_out)}: the log says why")
                break
            await asyncio.sleep(_ASK_AGAIN_S)
        self._progress.working("models answer", "models", 1.0)

    async def _answering(self, endpoint: Endpoint) -> tuple[str, ...]:
        if self._front and self._config.has_role("control"):
            return await ready_models(self._config.http.host, self._port)
        return await models_here(endpoint, self._seen.address("control/roster"))

    async def _watch(self, endpoint: Endpoint, root: Address) -> None:
        """Follow the tree: what is starting is told, and whose process is gone counts no more."""
        pids: set[int] = set()
        with suppress(TetherError):  # the root's end is noticed elsewhere
            async for tree in endpoint.stream(root, WatchTree()):
                assert isinstance(tree, Tree)
                self._seen = tree
                alive = {node.pid for node in tree.nodes if node.pid}
                for pid in pids - alive:
                    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
                pids = alive
                waiting = [
                    node.path for node in tree.nodes if node.state is not ChildStatus.RUNNING
                ]
                if waiting and not self._state.ready:
                    done = 1 - len(waiting) / len(tree.nodes)
                    self._progress.working(f"starting {waiting[0]}", "actors", done)

    async def _stop(self, endpoint: Endpoint, root: Address) -> None:
        """Stop doors, workers, control and database, in this order; each keeps its own deadline."""
        timeout_s = 2 * self._config.node.stop_deadline_s + MARGIN_S
        try:
            await stop_tree(endpoint, root, timeout=timeout_s)
        except TetherError as error:
            log.warning("the tree did not stop in order", error=error.message)

    def _tell(self, *, root: str, ready: bool = False) -> None:
        self._state = NodeState(
            pid=os.getpid(),
            node=self._config.node.id,
            run_dir=str(self._home.run_dir),
            admin_port=self._config.node.admin_port,
            root=root,
            url=self._front.url if self._front else "",
            dsn=dsn_of(self._config, self._home.run_dir, DatabaseRole.OPERATOR),
            ready=ready,
            allow_eval=self._allow_eval,
        )
        self._write_state()

    def _write_state(self) -> None:
        """On a full disk the node runs, and other commands find it as soon as there is room."""
        try:
            self._home.tell(self._state)
        except OSError as error:
            if not self._untold:
                log.warning("node.json can't be written yet", error=str(error))
            self._untold = True
            asyncio.get_running_loop().call_later(_TELL_AGAIN_S, self._write_state)
        else:
            self._untold = False

    def _why_lost(self) -> str:
        """The failures that the tree told of last, as the reason of the whole."""
        ends = {n.path: n.last_exit for n in self._seen.nodes if n.state is not ChildStatus.RUNNING}
        failures = [f"{path}: {end}" for path, end in ends.items() if "fail" in end]
        why = "; ".join(failures) or "its process or the Admin's was killed"
        return f"the root supervisor is gone ({why}); see the log, and start the node again"


async def _first(*waits: Any) -> None:
    """Return when the first of these is done; the others are cancelled, but for tasks."""
    own = [asyncio.ensure_future(w) for w in waits if isinstance(w, Coroutine)]
    tasks = [w for w in waits if isinstance(w, asyncio.Task)]
    try:
        await asyncio.wait((*own, *tasks), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in own:
            task.cancel()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Before the loop runs, SIGTERM ends the start as Ctrl-C does."""
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
