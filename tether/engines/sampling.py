"""Drawing a token so that the draw can be repeated anywhere.

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


def uniforms(seed: int, position: int, size: int) -> NDArray[np.float64]:
    """`size` numbers in (0, 1), one per token id, keyed by (seed, position)."""
    bits = np.random.Philox(key=[seed % _WORD, 0], counter=[0, position, 0, 0])
    raw = bits.random_raw((size + 1) // 2).astype("<u8", copy=False).view("<u4")[:size]
    # exact in double precision, whatever the processor
    return ((raw >> np.uint32(8)).astype(np.float64) + 0.5) * 2.0**-24


def draw(
    logits: NDArray[np.float32], *, temperature: float, top_p: float, seed: int, position: int
) -> int:
    """The token id at `position` of an answer.

    `logits` has shape (vocabulary,) and no NaN; `temperature` 0 is greedy; `top_p` keeps the
    fewest most likely tokens whose mass reaches it (Holtzman et al., 2019).
    """
    if temperature == 0.0:
        return int(logits.argmax())
    scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    # no noise lifts a token from further below the best than this: an exact shortcut
    near = np.flatnonzero(scaled >= _LEAST_NOISE - _MOST_NOISE)
    noise = -np.log(-np.log(uniforms(seed, position, len(logits))[near]))
    perturbed = scaled[near] + noise
    if top_p >= 1.0:
        return int(near[perturbed.argmax()])
    mass = np.exp(scaled)
    mass /= mass.sum()
    # A token is in the nucleus if the mass above it is below top_p. One that is not bars all
    # that are less likely, so few rounds find the best in the nucleus, and nothing is sorted.
    while True:
        best = int(perturbed.argmax())
        own = mass[near[best]]
        if float(mass[mass > own].sum()) < top_p:
            return int(near[best])
        perturbed[mass[near] <= own] = -np.inf
