"""The most that a request may use, as its gateway knows it before it is tokenized. Pure."""

from __future__ import annotations

from actors.contracts import EmbeddingInput, Infer, Maximum, ModelCard, Sampling
from actors.core.request_bound import prompt_bound


def maximum(infer: Infer, sampling: Sampling, card: ModelCard) -> Maximum:
    """Of a request to this version: prompt and answer together have at most its context; of texts
    to embed each has. Where the client has said no `max_tokens`, the answer may be made shorter."""
    prompt = prompt_bound(infer.input)
    if isinstance(infer.input, EmbeddingInput):
        return Maximum(prompt_tokens=prompt, total_tokens=prompt)
    return Maximum(
        prompt_tokens=min(prompt, card.context),
        output_tokens=sampling.max_tokens,
        total_tokens=card.context,
        exact=infer.max_tokens_given,
    )
