"""The actor system of this node, for those who know Tether's runtime and not Thespian."""

from __future__ import annotations

from typing import Any

from thespian.actors import ActorSystem, ActorSystemException

import supervision.runtime  # noqa: F401  registers the system base "tether"
from supervision.errors import Unavailable


class System:
    """The Admin and whatever it started, from `start` to `shutdown`.

    Both block, and must not be called while an asyncio loop runs in this thread.
    """

    def __init__(self, system: Any) -> None:
        self._system = system

    @classmethod
    def start(cls, capabilities: dict[str, Any]) -> System:
        """Start an Admin with these capabilities (see `supervision.runtime.options.NodeOptions`).

        Raises:
            Unavailable: it did not come up.
        """
        try:
            return cls(ActorSystem("tether", capabilities))
        except ActorSystemException as error:
            raise Unavailable(
                f"Thespian's Admin did not come up ({error}); see the log, and start again"
            ) from error

    def shutdown(self) -> None:
        """End all actors and the Admin, and wait for it. Safe to call twice."""
        system, self._system = self._system, None
        if system is not None:
            system.shutdown()
