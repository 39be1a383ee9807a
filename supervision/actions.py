"""Orders of the pure tree to its shell, which answers each by calling the tree again.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervision.contracts import ExitReason
from supervision.events import Event
from supervision.external_cause import ExternalCause
from supervision.spec import ChildSpec


@dataclass(frozen=True, slots=True)
class Spawn:
    """Create the process of `spec`; it idles until `Start`. Answered by `exited` if it fails."""

    spec: ChildSpec
    generation: int


@dataclass(frozen=True, slots=True)
class Start:
    """Tell it to become ready. Answered by `ready`, `start_failed` or `exited`."""

    id: str
    generation: int
    needs: tuple[tuple[str, str], ...]  # (sibling id, its address)


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell it to finish within `deadline_s` (infinite for supervisors). Answered by `exited`."""

    id: str
    generation: int
    deadline_s: float
    reason: ExitReason


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL to its process, whatever it does. Answered by `exited`."""

    id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Serve:
    """All children are ready for the first time: so is the supervisor."""


@dataclass(frozen=True, slots=True)
class EndTree:
    """No child is left; end, and say `reason` and `causes` (latest first) to one's parent, and what
    excuses them."""

    reason: ExitReason
    causes: tuple[str, ...] = ()
    excuse: ExternalCause | None = None


@dataclass(frozen=True, slots=True)
class Emit:
    """Something happened that others may want to know."""

    event: Event


Action = Spawn | Start | Stop | Kill | Serve | EndTree | Emit
