"""The breakers of workers by model, and what operators have said of them. Pure."""

from __future__ import annotations

from typing import Final

from supervision.errors import Overloaded
from supervision.policies import NEVER, Breaker, BreakerOptions, Breakers, Mode
from supervision.policies.breaker import DEFAULT

ALL: Final = ""
"""In place of a model: all that the worker answers for, now or later."""

Key = tuple[str, str]


class WorkerBreakers(Breakers[Key]):
    """By worker id and model. A word about all of a worker holds for a model that it loads
    tomorrow as well; one about a single model that was said later goes before it.

    Args:
        bound: of the breakers, and of the words.
    """

    def __init__(self, options: BreakerOptions = DEFAULT, bound: int = 4096) -> None:
        super().__init__(options, bound)
        self._words: dict[Key, Mode] = {}

    @property
    def words(self) -> dict[Key, Mode]:
        """All that was said and still holds; `ALL` in place of a model stands for the worker."""
        return dict(self._words)

    def mode(self, key: Key) -> Mode:
        """What operators want of this breaker, whether there is one yet or not."""
        words = self._words
        return words.get(key) or words.get((key[0], ALL)) or Mode.AUTOMATIC

    def say(self, worker_id: str, model_ref: str, mode: Mode, now: float) -> None:
        """An operator's word, which takes the place of those that it covers.

        Raises:
            Overloaded: too many words hold already.
        """
        words, key = self._words, (worker_id, model_ref)
        covered = [k for k in words if k == key or (model_ref == ALL and k[0] == worker_id)]
        alone = model_ref == ALL or (worker_id, ALL) not in words
        needless = alone and mode is Mode.AUTOMATIC
        if not (needless or covered) and len(words) >= self._bound:
            raise Overloaded(
                f"operators have set {len(words)} breakers, and no more are kept; put some back to "
                "automatic"
            )
        for each in covered:
            del words[each]
        if not needless:
            words[key] = mode
        for each, breaker in self:
            if each[0] == worker_id and model_ref in (ALL, each[1]):
                breaker.set(mode, now)

    def _made(self, key: Key) -> Breaker:
        breaker = super()._made(key)
        breaker.set(self.mode(key), -NEVER)  # as if it had been so for ever
        return breaker
