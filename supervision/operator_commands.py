"""An operator's commands, as a supervisor carries them out."""

from __future__ import annotations

from functools import partial

from supervision.child import Supervised
from supervision.child_processes import ChildProcesses
from supervision.child_state import join
from supervision.contracts import ChildReady, ChildStatus, ChildStopped
from supervision.contracts.operating import OperateChild, ShowSpec, SpecShown, Verb, WriteAudit
from supervision.errors import BadRequest, Unavailable
from supervision.runtime import Address, on
from supervision.security.audience import OPERATOR
from supervision.spec import ChildSpec
from supervision.telemetry.audit import Audit, Unwritable, Who, home
from supervision.tree_driver import TreeDriver


class OperatorCommands:
    """The part of a supervisor, `actor`, that operators talk to. What they order goes on when they
    leave."""

    def __init__(self, actor: Supervised, driver: TreeDriver, processes: ChildProcesses) -> None:
        self._actor = actor
        self._driver = driver
        self._tree = driver.tree
        self._processes = processes

    @on(OperateChild, of=OPERATOR)
    async def _operate_child(self, msg: OperateChild, sender: Address) -> ChildReady | ChildStopped:
        """
        Raises:
            Conflict: there is no such child, or the supervisor is stopping.
            BadRequest: there is no such verb.
            Unavailable: it didn't start; its supervisor goes on as its spec says.
        """
        before = self._tree.children.generation(msg.id)
        if msg.verb == Verb.RESTART:
            self._driver.perform(self._tree.renew(msg.id, self._driver.now()))
            return await self._started(msg.id, before)
        if msg.verb == Verb.STOP:
            self._driver.perform(self._tree.terminate(msg.id, self._driver.now()))
            return await self._stopped(msg.id)
        if msg.verb == Verb.KILL:
            self._tree.children.spec(msg.id)
            self._processes.kill(msg.id, before)
            return ChildStopped()
        raise BadRequest(f"a supervisor has no verb {msg.verb!r}; it is one of {', '.join(Verb)}")

    @on(ShowSpec, of=OPERATOR)
    def _show_spec(self, msg: ShowSpec, sender: Address) -> SpecShown:
        return SpecShown(fields=tuple(described(self._tree.children.spec(msg.id))))

    @on(WriteAudit, of=OPERATOR)
    async def _write_audit(self, msg: WriteAudit, sender: Address) -> None:
        """
        Raises:
            Unavailable: it can't be written; nothing must be done.
        """
        folder = home()
        if folder is None:
            raise Unavailable("this node keeps no audit log; it was not started by `tether up`")
        who = Who(certificate=sender.node, pid=sender.pid)
        audit = Audit(folder, who, self._actor.address.node)
        write = partial(audit.write, msg.id, msg.command, msg.arguments, msg.outcome)
        try:
            await self._actor.loop.run_in_executor(None, write)
        except Unwritable as error:
            raise Unavailable(str(error)) from error

    async def _started(self, id: str, before: int) -> ChildReady:
        path, first = join(self._actor.path, id), 0
        while True:
            node = self._tree.children.node(id, self._driver.now())
            if node is None:
                raise Unavailable(
                    f"{path} is temporary: it was stopped and forgotten, and whoever has added it "
                    "may add it again"
                )
            if node.state is ChildStatus.STOPPED and node.generation != before:
                raise Unavailable(f"{path} did not start: {node.last_exit}")
            if node.generation != before:
                if node.state is ChildStatus.RUNNING:
                    return ChildReady(pid=node.pid, address=node.address, strategy=node.strategy)
                first = first or node.generation
                if node.generation != first:
                    raise Unavailable(
                        f"{path} did not start ({node.last_exit}), and is tried again; see `tree`"
                    )
            await self._driver.changed()

    async def _stopped(self, id: str) -> ChildStopped:
        while (node := self._tree.children.node(id, self._driver.now())) is not None and node.pid:
            await self._driver.changed()
        return ChildStopped()


def described(spec: ChildSpec) -> list[tuple[str, str]]:
    """The fields of a spec in words; of its arguments only the size, for there may be secrets."""
    backoff = spec.backoff
    return [
        ("start", spec.start),
        ("restart", str(spec.restart)),
        (
            "shutdown",
            f"{spec.shutdown:g} s" if isinstance(spec.shutdown, float) else str(spec.shutdown),
        ),
        ("start_timeout", f"{spec.start_timeout_s:g} s"),
        ("needs", " ".join(spec.needs)),
        ("significant", "yes" if spec.significant else ""),
        ("backoff", " ".join(f"{n}={getattr(backoff, n):g}" for n in backoff.__struct_fields__)),
        ("args", f"{len(spec.args)} bytes"),
    ]
