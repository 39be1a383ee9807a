"""What a gateway agrees to before anything is counted."""

from __future__ import annotations

import pytest

from actors.contracts import (
    ChatInput,
    EmbeddingInput,
    Infer,
    Input,
    Message,
    ModelCard,
    ModelPolicy,
    Sampling,
    TextInput,
)
from actors.engines.engine import Capabilities
from actors.gateway.request_validation import valid_request
from supervision.errors import BadRequest

CHAT = ChatInput(messages=(Message(role="user", content="abcdefgh"),))
TEXT = TextInput(prompt="abcdefgh")
EMBED = EmbeddingInput(texts=("abcdefgh",))


def infer(input: Input, **sampling: object) -> Infer:
    return Infer(
        credential="k",
        model_ref="m",
        input=input,
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
        correlation_id="c",
        retry_token="t",
        fingerprint=b"f",
        deadline_s=1.0,
    )


def card(engine: str = "gguf", **policy: object) -> ModelCard:
    return ModelCard(name="m", version="1", engine=engine, policy=ModelPolicy(**policy))  # type: ignore[arg-type]


def test_the_policy_ends_an_answer_early_and_never_lengthens_it() -> None:
    said = {"m@1": frozenset({"text", "chat"})}
    for asked, most, got in ((64, 16, 16), (8, 16, 8), (64, 0, 64)):
        agreed = valid_request(infer(CHAT, max_tokens=asked), card(max_tokens=most), "acme", said)
        assert (agreed.sampling.max_tokens, agreed.tokens) == (got, got + 2)
        assert agreed.sampling.seed is not None


@pytest.mark.parametrize(
    ("engine", "input", "can", "names"),
    [
        ("embedding", CHAT, None, "/v1/embeddings"),
        ("gguf", EMBED, None, "makes no embeddings"),
        ("gguf", CHAT, {"text"}, "chat template"),
        ("gguf", TEXT, {"chat"}, "messages only"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_by_name(
    engine: str, input: Input, can: set[str] | None, names: str
) -> None:
    said = {} if can is None else {"m@1": frozenset(can)}
    with pytest.raises(BadRequest, match=names):
        valid_request(infer(input), card(engine), "acme", said)


def test_who_has_not_said_what_it_can_do_is_asked() -> None:
    assert valid_request(infer(CHAT), card(), "acme", {}).characters == 8


def test_engines_say_what_they_can_do() -> None:
    assert Capabilities(resume="exact", tag="x", context=9, chat=True).abilities == (
        "text chat seeds resume:exact"
    )
    can = Capabilities(resume="exact", tag="x", context=9, chat=False, embeds=True)
    assert can.abilities == "embed"
