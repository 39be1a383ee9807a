"""The draw of a token, made so that it can be repeated anywhere.

The Gumbel-max trick: argmax(logits / T + g) with g ~ Gumbel(0, 1) is a draw from
softmax(logits / T) (Gumbel 1954; Maddison et al., "A* Sampling", 2014). The noise of token v
at output position n comes from Philox4x64-10 (Salmon et al., 2011) with key `seed` and
counter (_, n): a function of (seed, n, v) alone. So a run continues exactly in any batch and
in any process, and small differences in the logits rarely matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD = 2**64
# uniforms are (k + 1/2) / 2**24, so noise lies within these; see `draw`
_LEAST_NOISE = -2.9
_MOST_NOISE = 17.4


def _bits(seed: int, position: int, size: int) -> NDArray[np.uint32]:
    # as arrays: numpy would take a list of large integers for floats
    key = np.array((seed % _WORD, 0), np.uint64)
    bits = np.random.Philox(key=key, counter=np.array((0, position, 0, 0), np.uint64))
    return bits.random_raw((size + 1) // 2).astype("<u8", copy=False).view("<u4")[:size]


def _uniform(bits: NDArray[np.uint32]) -> NDArray[np.float64]:
    # exact in double precision, whatever the processor
    return ((bits >> np.uint32(8)).astype(np.float64) + 0.5) * 2.0**-24


def uniforms(seed: int, position: int, size: int) -> NDArray[np.float64]:
    """`size` numbers in (0, 1), one per token id, keyed by (seed, position)."""
    return _uniform(_bits(seed, position, size))


def draw(
    logits: NDArray[np.float32], *, temperature: float, top_p: float, seed: int, position: int
) -> int:
    """The token id at `position` of an answer.

    `logits` has shape (vocabulary,) and no NaN; `temperature` 0 is greedy; `top_p` keeps the
    fewest most likely tokens whose mass reaches it (Holtzman et al., 2019).
    """
    if temperature == 0.0:
        return int(logits.argmax())
    temperature = max(temperature, 1e-6)  # greedy as well, and no division overflows
    top = logits.max()
    # no noise lifts a token from further below the best than this: an exact shortcut
    near = np.flatnonzero(logits >= top - (_MOST_NOISE - _LEAST_NOISE) * temperature)
    noise = -np.log(-np.log(_uniform(_bits(seed, position, len(logits))[near])))
    perturbed = (logits[near].astype(np.float64) - float(top)) / temperature + noise
    if top_p >= 1.0:
        return int(near[perturbed.argmax()])
    mass = np.exp((logits - top) / np.float32(temperature))
    enough = top_p * float(mass.sum(dtype=np.float64))
    # A token is in the nucleus if the mass above it is below top_p. One that is not bars all
    # that are less likely, so few rounds find the best in the nucleus, and nothing is sorted.
    while True:
        best = int(perturbed.argmax())
        own = mass[near[best]]
        if float(mass[mass > own].sum(dtype=np.float64)) < enough:
            return int(near[best])
        perturbed[mass[near] <= own] = -np.inf
