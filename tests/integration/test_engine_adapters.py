"""LoRA adapters: peft makes them, and what peft merges of base and adapter is what is computed."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from actors.artifacts import digest, manifest, signing
from actors.artifacts import folder as scanned
from actors.artifacts.options import ArtifactOptions
from actors.artifacts.push import Push
from actors.contracts import ChatInput, Message, ModelCard, Sampling
from actors.engines import gguf_adapter, lora
from actors.engines.engine import Engine
from actors.engines.factory import create, prepare
from actors.engines.generation import Generation
from actors.engines.hosted import host
from actors.engines.llama_model import LlamaModel
from actors.engines.model import SlotModel, load
from actors.engines.span import Span
from actors.errors import ModelUnusable
from actors.worker import loader
from tests.support import adapter as adapters
from tests.support import tiny, tiny_gguf
from tests.support.artifact_shop import Shop, files

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "patterns": {
        "use_rslora": True,
        "rank_pattern": {"q_proj": 7, "layers.1.mlp.down_proj": 2},
        "alpha_pattern": {"v_proj": 3, "model.layers.0.self_attn.k_proj": 20.5},
        "exclude_modules": ["o_proj"],
    },
    "embeddings": {"target_modules": ["embed_tokens", "lm_head", "up_proj"], "r": 2},
    "some layers": {"target_modules": r".*\.(q|gate)_proj", "exclude_modules": r".*layers\.0.*"},
}
PROMPTS = ("tell me of the sea", "中文 😀", "the fox and the dog", "don't stop")


@dataclass(frozen=True)
class Made:
    """The tiny Llama twice, an adapter of each kind, and what peft merges of it."""

    base: Path
    gguf: Path
    folder: Path

    def adapter(self, kind: str = "plain") -> Path:
        return self.folder / kind

    def merged(self, kind: str = "plain") -> Path:
        return self.folder / f"{kind} merged"

    def card(self, kind: str = "", *, engine: str = "transformers") -> ModelCard:
        made = tiny.card(self.base) if engine == "transformers" else tiny_gguf.card(self.gguf)
        path = str(self.adapter(kind)) if kind else ""
        return msgspec.structs.replace(made, version=kind.replace(" ", "-") or "1", adapter=path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("adapters")
    gguf = tiny_gguf.make(folder)
    it = Made(folder / "tiny", gguf, folder)
    for seed, (kind, said) in enumerate(KINDS.items()):
        adapters.make(it.base, it.adapter(kind), seed=seed, merged=it.merged(kind), **said)
    return it


@pytest.fixture
def broken(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.adapter(), tmp_path / "broken"))


def logits(model: SlotModel | LlamaModel) -> Any:
    ids = list(range(3, 63))
    model.cache.reserve(1, len(ids))
    return model.forward(ids, (), (Span(0, 0, len(ids)),))


def computed(made: Made, source: Path, adapter: Path | None = None) -> Any:
    card = made.card()
    return logits(load(source, card, slots=1, threads=1, adapter=adapter and lora.read(adapter)))


def as_gguf(adapter: lora.Adapter, architecture: str = "llama") -> bytes:
    return b"".join(map(bytes, gguf_adapter.written(adapter, architecture, heads=6, key_heads=2)))


@asynccontextmanager
async def opened(engine: Engine) -> AsyncIterator[Engine]:
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


async def said(engine: Engine, job: Generation) -> tuple[int, ...]:
    return tuple([token async for delta in engine.run(job) for token in delta.token_ids])


async def asked(engine: Engine) -> list[Generation]:
    prompts = [
        await engine.prompt(ChatInput(messages=(Message(role="user", content=text),)))
        for text in PROMPTS
    ]
    ways = ({"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.95})
    return [
        Generation(prompt_ids=ids, sampling=Sampling(max_tokens=24, seed=7, **way))  # type: ignore[arg-type]
        for ids in prompts
        for way in ways
    ]


async def answers(engine: Engine) -> list[tuple[int, ...]]:
    return list(await asyncio.gather(*(said(engine, job) for job in await asked(engine))))


# ---- what is merged


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_peft_s_merge(made: Made, kind: str) -> None:
    before = {path: path.read_bytes() for path in files(made.base)}
    base, merged = computed(made, made.base), computed(made, made.merged(kind))
    ours = computed(made, made.base, made.adapter(kind))
    np.testing.assert_array_equal(ours, merged)
    assert np.abs(ours - base).max() > 0.1 * base.std()
    assert {path: path.read_bytes() for path in files(made.base)} == before


def test_half_precision_adapters_are_read(made: Made, broken: Path) -> None:
    import torch

    for dtype in (torch.bfloat16, torch.float16):
        tensors = {name: one.to(dtype) for name, one in adapters.weights(broken).items()}
        adapters.write(broken, tensors)
        for factor in lora.read(broken).factors:
            theirs = tensors[f"base_model.model.{factor.module}.lora_A.weight"]
            np.testing.assert_array_equal(factor.a, theirs.float().numpy())


def test_bfloat16_is_the_same_but_for_rounding(made: Made) -> None:
    card = tiny.card(made.base, dtype="bfloat16")
    adapter = lora.read(made.adapter())
    ours = logits(load(made.base, card, slots=1, threads=1, adapter=adapter))
    merged, base = computed(made, made.merged()), computed(made, made.base)
    assert 0 < np.abs(ours - merged).mean() < 0.1 * np.abs(base - merged).mean()


def test_nothing_of_the_adapter_stays_in_memory(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    seen: list[weakref.ref[Any]] = []
    read = lora.read

    def watched(path: Path) -> lora.Adapter:
        adapter = read(path)
        seen.extend(weakref.ref(f.a) for f in adapter.factors)
        seen.append(weakref.ref(adapter))
        return adapter

    def held() -> int:
        gc.collect()
        return sum(t.nbytes for t in gc.get_objects() if type(t) is torch.nn.Parameter)

    monkeypatch.setattr(lora, "read", watched)
    before = held()
    kept = [load(made.base, made.card(), slots=1, threads=1)]
    each = held() - before
    kept.append(load(made.base, made.card(), slots=1, threads=1, adapter=lora.read(made.adapter())))
    assert held() - before == 2 * each
    assert len(seen) == 15
    assert not any(ref() is not None for ref in seen)


# ---- engines


async def test_answers_are_those_of_peft_s_merge_and_go_on_exactly(
    made: Made, tmp_path: Path
) -> None:
    merged = tiny.card(made.merged())
    async with (
        opened(create(made.card(), cache_dir=tmp_path)) as base,
        opened(create(merged, cache_dir=tmp_path)) as theirs,
        opened(create(made.card("plain"), cache_dir=tmp_path)) as ours,
        opened(create(made.card("patterns"), cache_dir=tmp_path)) as other,
        opened(host(made.card("plain"), cache_dir=tmp_path)) as hosted,
    ):
        wanted = await answers(theirs)
        assert await answers(ours) == wanted
        assert await answers(hosted) == wanted
        changed = (await answers(base), await answers(other))
        for some in changed:
            assert sum(a == b for a, b in zip(some, wanted, strict=True)) < len(wanted) // 2
        assert changed[0] != changed[1]
        # an answer may only go on where base and adapter are the same
        tags = [one.capabilities.tag for one in (base, ours, other)]
        assert len(set(tags)) == 3
        assert hosted.capabilities == ours.capabilities
        assert ours.capabilities.resume == "exact"
        for job, whole in zip(await asked(ours), wanted, strict=True):
            cut = len(whole) // 2
            rest = continued(job, whole[:cut])
            assert whole[:cut] + await said(hosted, rest) == whole


def continued(job: Generation, emitted: tuple[int, ...]) -> Generation:
    return Generation(prompt_ids=job.prompt_ids, emitted_ids=emitted, sampling=job.sampling)


async def test_gguf_says_what_transformers_says(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "adapter.gguf"
    file.write_bytes(as_gguf(lora.read(made.adapter("patterns"))))
    by_file = msgspec.structs.replace(made.card("patterns", engine="gguf"), adapter=str(file))
    async with (
        opened(create(tiny.card(made.merged("patterns")), cache_dir=tmp_path)) as theirs,
        opened(create(made.card(engine="gguf"), cache_dir=tmp_path)) as base,
        opened(create(made.card("patterns", engine="gguf"), cache_dir=tmp_path)) as ours,
        opened(host(by_file, cache_dir=tmp_path)) as hosted,
    ):
        wanted, unchanged = await answers(theirs), await answers(base)
        for engine in (ours, hosted):
            got = await answers(engine)
            tokens = sum(map(len, wanted))
            same = sum(
                a == b
                for one, two in zip(got, wanted, strict=True)
                for a, b in zip(one, two, strict=False)
            )
            assert same > tokens // 2
            assert sum(a == b for a, b in zip(got, unchanged, strict=True)) < len(got) // 2
        tags = {one.capabilities.tag for one in (base, ours, hosted)}
        assert len(tags) == 3
        assert all(tag.startswith("gguf/") for tag in tags)


@pytest.mark.parametrize("kind", ["plain", "patterns"])
def test_gguf_logits_are_near_peft_s_merge(made: Made, kind: str) -> None:
    merged = computed(made, made.merged(kind))
    assert_gguf_is_near(merged, made.gguf, made.adapter(kind))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_gguf_logits_of_other_architectures_too(made: Made, tmp_path: Path, kind: str) -> None:
    path = tiny_gguf.make_qwen(made.folder, kind)
    merged = tmp_path / "merged"
    adapter = adapters.make(made.folder / kind, tmp_path / "adapter", merged=merged)
    assert_gguf_is_near(computed(made, merged), path, adapter)


def assert_gguf_is_near(merged: Any, base: Path, adapter: Path) -> None:
    def of(adapter: Path | None) -> Any:
        model = LlamaModel(base, slots=1, context=128, threads=1, batch_tokens=64, adapter=adapter)
        try:
            return logits(model)
        finally:
            model.close()

    assert np.abs(of(adapter) - merged).max() < 0.05 * merged.std()
    assert np.abs(of(None) - merged).max() > 0.5 * merged.std()


def test_what_is_written_as_gguf_is_what_gguf_reads(made: Made, tmp_path: Path) -> None:
    from gguf import GGUFReader

    file = tmp_path / "adapter.gguf"
    adapter = lora.read(made.adapter("patterns"))
    file.write_bytes(as_gguf(adapter, "qwen2"))
    reader = GGUFReader(file)
    assert reader.get_field("general.architecture").contents() == "qwen2"
    assert reader.get_field("general.type").contents() == "adapter"
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(tensors) == 2 * len(adapter.factors) == 24
    for factor in adapter.factors:
        if factor.module == "model.layers.1.mlp.down_proj":
            np.testing.assert_array_equal(tensors["blk.1.ffn_down.weight.lora_a"], factor.a)
            np.testing.assert_array_equal(
                tensors["blk.1.ffn_down.weight.lora_b"], factor.b * np.float32(factor.scaling)
            )
            break
    else:
        pytest.fail("the layer with a rank of its own is not there")


async def test_base_and_adapter_from_signed_artifacts(made: Made, tmp_path: Path) -> None:
    shop = Shop(tmp_path, size=1000)
    sources = []
    for name, path in (("tiny", made.base), ("tiny-lora", made.adapter())):
        listed = scanned.scan(path)
        bundle = signing.sign(path, listed, shop.signer.file)
        await Push(shop.replicas()).push(path, listed, ref=f"{name}@1", signatures=[bundle])
        sources.append(f"artifact:{digest.address(digest.of(manifest.encode(listed)))}")
    card = msgspec.structs.replace(made.card(), source=sources[0], adapter=sources[1])
    engine = await loader.load(
        card,
        slots=4,
        queue=8,
        threads=1,
        cache_dir=tmp_path / "node",
        artifacts=ArtifactOptions(replicas=tuple(shop.urls), trust_dir=str(shop.trust)),
    )
    try:
        async with opened(create(made.card("plain"), cache_dir=tmp_path)) as local:
            assert await answers(engine) == await answers(local)
            assert engine.capabilities.tag == local.capabilities.tag
    finally:
        await engine.close()


# ---- adapters that can't be used


def drop(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def saying(**said: Any) -> Callable[[Path], None]:
    return lambda path: adapters.say(path, **said)


def cut(path: Path) -> None:
    file = path / lora.WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])


def pickled(path: Path) -> None:
    (path / lora.WEIGHTS).rename(path / lora.PICKLE)


def tensors(change: Callable[[dict[str, Any], str], None]) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        found = adapters.weights(path)
        change(found, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
        adapters.write(path, found)

    return harm


def renamed(found: dict[str, Any], name: str) -> None:
    for side in "AB":
        one = name.replace("lora_A", f"lora_{side}")
        found[one.replace("layers.0", "layers.7")] = found.pop(one)


def of_another_rank(found: dict[str, Any], name: str) -> None:
    found[name] = found[name][:3].contiguous()


def of_a_wider_base(found: dict[str, Any], name: str) -> None:
    found[name] = found[name].repeat(1, 2)


BAD = {
    "no config": (drop(lora.CONFIG), r"has no adapter_config\.json"),
    "no weights": (drop(lora.WEIGHTS), r"has no adapter_model\.safetensors"),
    "pickle": (pickled, "may be a pickle"),
    "cut off": (cut, "is not whole"),
    "not a number": (tensors(lambda t, n: t[n].fill_(float("nan"))), "numbers that are none"),
    "rank": (tensors(of_another_rank), r"\(3, 48\) and \(48, 4\), and .* says rank 4"),
    "one factor": (tensors(lambda t, n: t.pop(n)), "one factor only"),
    "no such layer": (tensors(renamed), r"no such layer; was the adapter made for another base"),
    "wider base": (tensors(of_a_wider_base), r"48 x 96 .* another base"),
    "whole layer": (
        tensors(lambda t, n: t.update({"base_model.model.lm_head.weight": t.pop(n)})),
        r"lm_head\.weight, which is no factor",
    ),
    "three dimensions": (tensors(lambda t, n: t.update({n: t[n][None]})), r"only matrices"),
    "other targets": (saying(target_modules=["k_proj"]), "none of its target_modules"),
    "more targets": (saying(target_modules=[*adapters.TARGETS, "lm_head"]), "no factors for lm_h"),
    "dora": (saying(use_dora=True), "sets use_dora, which is not supported"),
    "modules_to_save": (saying(modules_to_save=["lm_head"]), "sets modules_to_save"),
    "bias": (saying(bias="all"), "sets bias to 'all'"),
    "pissa": (saying(init_lora_weights="pissa"), "'pissa', which changes the base"),
    "not lora": (saying(peft_type="IA3"), "of the kind IA3"),
    "no rank": (saying(r=0), "has the rank 0"),
    "no alpha": (saying(lora_alpha="8"), "has the alpha '8'"),
    "bad pattern": (saying(rank_pattern={"q(": 4}), r"the pattern 'q\('"),
}


@pytest.mark.parametrize(("harm", "told"), BAD.values(), ids=BAD)
async def test_a_bad_adapter_is_one_sentence(
    made: Made, broken: Path, tmp_path: Path, harm: Callable[[Path], None], told: str
) -> None:
    harm(broken)
    card = msgspec.structs.replace(made.card(), adapter=str(broken))
    with pytest.raises(ModelUnusable, match=told) as caught:
        await create(card, cache_dir=tmp_path).open()
    assert "\n" not in caught.value.message


GGUF_BAD = {
    **{kind: BAD[kind] for kind in ("pickle", "cut off", "not a number", "dora")},
    "no such layer": (tensors(renamed), "does not exist in base model"),
    "wider base": (tensors(of_a_wider_base), "incorrect shape"),
}


@pytest.mark.parametrize(("harm", "told"), GGUF_BAD.values(), ids=GGUF_BAD)
async def test_a_bad_adapter_over_gguf_is_one_sentence(
    made: Made, broken: Path, tmp_path: Path, harm: Callable[[Path], None], told: str
) -> None:
    harm(broken)
    card = msgspec.structs.replace(made.card(engine="gguf"), adapter=str(broken))
    with pytest.raises(ModelUnusable, match=told) as caught:
        await create(card, cache_dir=tmp_path).open()
    assert "\n" not in caught.value.message


async def test_other_files_are_no_adapters(made: Made, tmp_path: Path) -> None:
    def card(engine: str, adapter: Path) -> ModelCard:
        return msgspec.structs.replace(made.card(engine=engine), adapter=str(adapter))

    cut_off = tmp_path / "adapter.gguf"
    cut_off.write_bytes(as_gguf(lora.read(made.adapter()))[:-5000])
    for bad, told in (
        (card("gguf", cut_off), "cannot be used as an adapter by llama.cpp"),
        (card("gguf", made.gguf), "expect general.type to be 'adapter'"),
        (card("gguf", made.adapter("embeddings")), r"changes model\.embed_tokens"),
        (card("gguf", tmp_path / "none"), "cannot be read"),
        (card("transformers", made.base), r"has no adapter_config\.json"),
        (card("transformers", made.gguf), "does not exist"),
    ):
        with pytest.raises(ModelUnusable, match=told):
            await create(bad, cache_dir=tmp_path).open()


@pytest.mark.parametrize("engine", ["echo", "embedding"])
def test_engines_that_take_no_adapter_say_so(made: Made, tmp_path: Path, engine: str) -> None:
    card = msgspec.structs.replace(made.card("plain"), engine=engine)
    with pytest.raises(ModelUnusable, match=f"the engine '{engine}' takes none"):
        prepare(card, tmp_path)
