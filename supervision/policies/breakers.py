"""A breaker for each thing that can break on its own, such as a worker's model. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from supervision.errors import Overloaded
from supervision.policies.breaker import DEFAULT, Breaker, BreakerOptions, Mode

K = TypeVar("K", bound=Hashable)


class Breakers(Generic[K]):
    """Breakers by key, at most `bound`: the one that was asked for longest ago makes room, but
    none that an operator has set.

    Raises:
        ValueError: `bound` is below 1.
    """

    def __init__(self, options: BreakerOptions = DEFAULT, bound: int = 4096) -> None:
        if bound < 1:
            raise ValueError(f"breakers: bound is {bound}; it must be at least 1")
        self._options = options
        self._bound = bound
        self._breakers: dict[K, Breaker] = {}  # in the order of use

    def __len__(self) -> int:
        return len(self._breakers)

    def __contains__(self, key: K) -> bool:
        return key in self._breakers

    def __iter__(self) -> Iterator[tuple[K, Breaker]]:
        return iter(self._breakers.items())

    def of(self, key: K) -> Breaker:
        """The breaker of `key`, made when there is none. Keep it rather than ask again and again:
        one made anew for each call can never open.

        Raises:
            Overloaded: operators have set all of the `bound` breakers.
        """
        breaker = self._breakers.pop(key, None)
        if breaker is None:
            if len(self._breakers) >= self._bound:
                self._make_room()
            breaker = self._made(key)
        self._breakers[key] = breaker
        return breaker

    def _made(self, key: K) -> Breaker:
        return Breaker(self._options)

    def _make_room(self) -> None:
        for key, breaker in self._breakers.items():
            if breaker.mode is Mode.AUTOMATIC:
                del self._breakers[key]
                return
        raise Overloaded(
            f"operators have set all {self._bound} breakers; put some back to automatic"
        )
