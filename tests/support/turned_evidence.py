"""What a node that was taken over has left behind at the others: row by row, as it should be."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any, Final

from actors.core.node_roles import WORKER
from bench.contracts import PEERS, declared
from supervision.telemetry import audit
from tests.support.cluster_load import TOKENS, Load
from tests.support.proof_table import Proof
from tests.support.three_nodes import TURNED, Standing, ThreeNodes
from tests.support.waiting import PATIENCE_S

GROWTH_MIB: Final = 96.0  # of any process of the others, above what it had before


class TurnedEvidence:
    """Of `nodes`, written into `proof`."""

    def __init__(self, nodes: ThreeNodes, proof: Proof) -> None:
        self.nodes, self.proof = nodes, proof

    def said(self, summary: dict[str, Any]) -> None:
        said: dict[str, int] = summary["said"]
        rounds = said.pop("rounds", 0)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(said.items()))
        self.proof.row(
            "a process with n3's certificate says all",
            f"{counts}, in {rounds} rounds",
            good=min(said.get(kind, 0) for kind in ("tell", "ask", "stream", "system", "raw"))
            > 100,
        )
        print(f"      how it ended: {summary['came_to']}", flush=True)
        worker = PEERS[WORKER].mask
        may = {one.contract.__name__ for one in declared() if one.audience.admits(worker)}
        taken = {name: count for name, count in summary["obeyed"].items() if count}
        beyond = sorted(set(taken) - may)
        self.proof.row(
            "  what a handler has taken", f"{taken}, and BEYOND its role {beyond}" if beyond else
            f"{', '.join(sorted(taken))}: for a worker to say", good=not beyond,
        )  # fmt: skip
        heard = summary["heard"]
        strange = sorted(
            set(heard) - {"FindActor", "ShowTree", "Announce", "Revocations", "WatchTree"}
        )
        self.proof.row("  what others have said to it", f"{heard}", good=not strange)

    def unchanged(
        self, node: str, before: Standing, now: Standing, resident: dict[int, float]
    ) -> None:
        for what in ("tree", "actors", "breakers", "models", "fleet"):
            old, new = getattr(before, what), getattr(now, what)
            seen = "as before"
            if isinstance(old, dict):
                seen = f"{len(old)} {'lines' if what == 'tree' else 'entries'} as before"
                others = [k for k in {*old, *new} if old.get(k) != new.get(k)]
                if others:
                    seen = f"CHANGED {[(k, old.get(k), new.get(k)) for k in others]}"
            elif old != new:
                seen = f"{old} was {new}"
            named = {"tree": "pids and restarts", "actors": "states and log levels"}.get(what, what)
            self.proof.row(f"  {node}: {named}", seen, good=old == new)
        live = before.pids.keys() <= now.pids.keys()
        self.proof.row(f"  {node}: processes", f"{len(before.pids)}, all live", good=live)
        peaks = {pid: memory_mib(pid, "VmHWM") for pid in before.pids if pid in now.pids}
        pid = max(peaks, key=lambda one: peaks[one] - resident[one])
        grown = peaks[pid] - resident[pid]
        self.proof.row(
            f"  {node}: memory",
            f"at most {grown:.0f} MiB more than before, {peaks[pid]:.0f} in all, of "
            f"{before.pids[pid] or 'its Admin or launcher'} (bound: {GROWTH_MIB:.0f} more)",
            good=grown <= GROWTH_MIB,
        )
        self.sober(node)

    def sober(self, node: str) -> None:
        """Whatever it was told, no handler met what it didn't foresee."""
        lines = self.nodes.members[node].log.read_text(errors="replace").splitlines()
        wild = [
            line
            for line in lines
            if "Traceback" in line
            or ('"level": "error"' in line and "refused a peer of another release" not in line)
        ]
        self.proof.row(
            f"  {node}: its log", f"{len(lines)} lines, {len(wild)} of faults", good=not wild
        )
        for line in wild[:3]:
            print(f"      {line[:1500]}", flush=True)

    async def billed(self, load: Load) -> None:
        """Every answer has one job that was completed, and one row of the ledger, of its tokens."""
        tokens = [one.answer.token for one in load.outcomes if one.whole]
        settled = await self.nodes.one(
            "SELECT count(*) FROM jobs j JOIN ledger l ON l.job_id = j.id WHERE j.retry_token = "
            "ANY($1) AND j.outcome = 'completed' AND l.output_tokens = $2", tokens, TOKENS,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_S):
            while await self.nodes.one("SELECT count(*) FROM leases"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        ledger = await self.nodes.one("SELECT count(*) FROM ledger")
        jobs = await self.nodes.one("SELECT count(*) FROM jobs")
        self.proof.row(
            "  each answer billed once, as it was",
            f"{len(set(tokens))} answers, {settled} of their jobs with {TOKENS} tokens; "
            f"{ledger} bills of {jobs} jobs in all",
            good=len(set(tokens)) == len(tokens) == settled == ledger == jobs,
        )

    def received(self, key: str, word: str) -> None:
        held = (self.nodes.folder / "received").read_bytes()
        secret = {"the key": key, "a prompt": word}
        found = [name for name, word in secret.items() if word.encode() in held]
        self.proof.row(
            "  what n3 was sent", f"{len(held) / 1e6:.1f} MB, with "
            f"{' and '.join(found) if found else 'neither the key nor a prompt'}",
            good=not found and len(held) > 100_000,
        )  # fmt: skip

    def told(self, node: str) -> None:
        refused = self.nodes.metric(node, "tether_contracts_refused_total", f'node="{TURNED}"')
        of_system = self.nodes.metric(node, "tether_system_refused_total", 'reason="sender"')
        system = sum(of_system.values())
        self.proof.row(
            f"  {node}: the metrics",
            f"{sum(refused.values()):.0f} of {len(refused)} contracts by n3 refused; of Thespian's "
            f"{system:.0f}",
            good=sum(refused.values()) > 100 and system > 100,
        )
        entries = audit.read(self.nodes.members[node].home / audit.NAME)
        named = Counter(
            entry.arguments[0]
            for entry in entries
            if entry.command == "say" and entry.who.certificate == TURNED
        )
        must = {"SetBreaker", "ChildChanged", "Reserve"}
        self.proof.row(
            f"  {node}: the audit log", f"{sum(named.values())} lines name n3, with {len(named)} "
            "contracts", good=len(named) > len(must) and must <= named.keys(),
        )  # fmt: skip


def memory_mib(pid: int, what: str) -> float:
    """`VmRSS`, what is resident, or `VmHWM`, the most that ever was; see proc(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    return 0.0


def fresh_peak_mib(pid: int) -> float:
    """What is resident; the peak is counted from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory_mib(pid, "VmRSS")
