"""What the process of an engine can't do, tried in a real one, and that it could elsewhere.

TETHER_SANDBOX_ENGINES names the engines whose sandboxes and interpreters these are, with commas
between them; vllm is only asked for by `scripts/prove vllm`, as it takes gigabytes to install.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.contracts import ChatInput, Message, ModelCard, Sampling, TextInput
from actors.engines import factory, host_process
from actors.engines.engine import EngineOptions
from actors.engines.engine_sandbox import Mode
from actors.engines.generation import Generation
from actors.engines.hosted import HostedEngine
from actors.errors import ModelUnusable
from supervision.security import landlock
from tests.support import tiny, tiny_gguf
from tether.http.handover import Handover

KINDS = os.environ.get("TETHER_SANDBOX_ENGINES", "gguf").split(",")
ROOT = Path(__file__).parents[2]
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s3-secret",
    "TETHER_STORE_SECRET_KEY": "store-secret",
    "DATABASE_URL": "postgresql://tether:dsn-secret@db/tether",
    "VLLM_API_KEY": "vllm-secret",
    "HF_TOKEN": "hub-secret",
}
KEPT = {"OMP_NUM_THREADS": "1", "CUDA_HOME": "/usr/local/cuda", "TZ": "UTC"}


class Place:
    """A node's files around a model, and somebody who listens."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.node = folder / "node"
        self.node.mkdir(mode=0o700)
        self.key, self.config = self.node / "node.pem", self.node / "cluster.toml"
        for path in (self.key, self.config):
            path.write_text("secret")
            path.chmod(0o600)
        self.listens = kind == "vllm"
        if self.listens:
            made = tiny.make(folder / "model", head_dim=32)
            self.model = made / "config.json"
            self.card = ModelCard(name="tiny", version="1", engine=kind, source=str(made))
        else:
            self.model = tiny_gguf.make(folder / "model")
            self.card = tiny_gguf.card(self.model)
        self.program = folder / "model" / "program"
        shutil.copy("/bin/true", self.program)
        self.cache = folder / "cache"
        self.cache.mkdir()
        self.ledger = socket.socket(socket.AF_UNIX)
        self.ledger.bind(str(self.node / "s"))
        self.ledger.listen()
        self.log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.log.bind(str(self.node / "d"))
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))

    def close(self) -> None:
        for sock in (self.ledger, self.log, self.tcp, self.udp):
            sock.close()

    @property
    def forbidden(self) -> list[tuple[str, Any]]:
        me = os.getpid()
        tries: list[tuple[str, Any]] = [
            ("read", str(self.key)),
            ("read", str(self.config)),
            ("list", str(self.node)),
            ("open up", str(self.key)),
            ("append", str(self.model)),
            ("write", str(self.cache / "elsewhere")),
            ("read", f"/proc/{me}/environ"),
            ("unix", str(self.node / "s")),
            ("unix datagram", str(self.node / "d")),
            ("tcp", self.tcp.getsockname()),
            ("fast open", self.tcp.getsockname()),
            ("udp", self.udp.getsockname()),
            ("listen", free_port()),
            ("run", str(self.program)),
            ("namespace", None),
            ("trace", me),
        ]
        if has_multipath():
            tries.append(("mptcp", self.tcp.getsockname()))
        if not self.listens:
            tries.append(("listen", 0))
        if landlock.abi() >= 6:
            tries.append(("signal", me))
        return tries


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def has_multipath() -> bool:
    """Is Multipath TCP in this kernel?"""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()
    except OSError:
        return False
    return True


@pytest.fixture(params=KINDS)
def place(folder: Path, request: pytest.FixtureRequest) -> Any:
    made = Place(folder, request.param)
    yield made
    made.close()


@asynccontextmanager
async def probing(
    place: Place, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> AsyncIterator[HostedEngine]:
    """A hosted engine whose process is as it is, but that it tries what it is told to."""
    python = place.cache / "python"
    python.write_text(
        f'#!/bin/sh\nshift 2\nexec "{factory.interpreter(place.card)}" '
        '-m tests.support.probing_host "$@"\n'
    )
    python.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(host_process, "interpreter", lambda card: str(python))
        patch.setenv("PYTHONPATH", str(ROOT))
        for name, value in (SECRETS | KEPT).items():
            patch.setenv(name, value)
        made = HostedEngine(place.card, EngineOptions(cache_dir=place.cache), sandbox=mode)
        await made.open()
    try:
        yield made
    finally:
        await made.close()


async def told(engine: HostedEngine, *tries: tuple[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        bytes(await engine.prompt(TextInput(prompt=json.dumps(tries))))
    )
    return found


async def test_an_engine_reaches_nothing_of_its_node(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with probing(place, monkeypatch, "required") as engine:
        found = await told(engine, *place.forbidden)
        assert {
            (what, name): came
            for (name, what), came in zip(map(tuple, place.forbidden), found["tries"], strict=True)  # type: ignore[misc]
            if came == "done"
        } == {}
        assert found["core"] == [0, 0]
        assert found["dumpable"] == 0
        assert found["capabilities"] & ~0b110 == 0
        assert place.key.stat().st_mode & 0o777 == 0o600
        own = Path(engine._sandbox.temporary)
        may = await told(
            engine,
            ("read", str(place.model)),
            ("write", str(own / "file")),
            ("read", str(own / "file")),
            ("remove", str(own / "file")),
            ("write", f"{engine._sandbox.cache}/file"),
            ("read", "/proc/self/status"),
            ("append", "/dev/null"),
            ("run", "/bin/true"),
            ("thread", None),
            *([("listen", 0)] if place.listens else []),
        )
        assert set(may["tries"]) == {"done"}
    assert not own.exists()


async def test_without_a_sandbox_it_would(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tries are real ones."""
    tries = [one for one in place.forbidden if one[0] not in ("trace", "namespace")]
    async with probing(place, monkeypatch, "off") as engine:
        found = await told(engine, *tries)
    assert set(found["tries"]) == {"done"}


@pytest.mark.parametrize("mode", ["required", "off"])
async def test_an_engine_is_handed_no_listening_socket_and_no_certificate(
    place: Place, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """By `tether up`, which asks who comes for the user alone: the sandbox is the fence."""
    path = str(place.node / "handover")
    handover = Handover(place.tcp, path, lambda: b"the key of the front door")
    try:
        async with probing(place, monkeypatch, mode) as engine:
            (came,) = (await told(engine, ("handover", path)))["tries"]
    finally:
        handover.close()
    assert came == ("done" if mode == "off" else "PermissionError")


@pytest.mark.parametrize("mode", ["auto", "off"])
async def test_an_engine_knows_no_secret_of_the_environment(
    place: Place, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    async with probing(place, monkeypatch, mode) as engine:
        environ = (await told(engine))["environ"]
    assert not SECRETS.keys() & environ.keys()
    assert not [value for value in SECRETS.values() if value in str(environ)]
    assert environ.items() >= KEPT.items()
    assert environ["HOME"].startswith(str(place.cache))


@pytest.mark.parametrize("place", ["gguf"], indirect=True)
async def test_what_a_kernel_lacks_is_said_and_counts_where_all_is_required(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a machine for which nobody has written a filter."""
    for folder in ("bin", "site"):
        (place.cache / folder).mkdir()
    (place.cache / "site" / "sitecustomize.py").write_text(
        "import platform\nplatform.machine = lambda: 'pdp11'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(place.cache / "site"))
    strict = HostedEngine(place.card, EngineOptions(cache_dir=place.cache), sandbox="required")
    with pytest.raises(ModelUnusable, match=r"'required', and .* seccomp .*pdp11"):
        await strict.open()
    await strict.close()
    capfd.readouterr()
    lax = HostedEngine(place.card, EngineOptions(cache_dir=place.cache), sandbox="auto")
    await lax.open()
    try:
        asked = ChatInput(messages=(Message(role="user", content="tell me of the sea"),))
        what = Generation(
            prompt_ids=await lax.prompt(asked),
            sampling=Sampling(max_tokens=4, temperature=0.0, seed=0),
        )
        assert [delta async for delta in lax.run(what)]
    finally:
        await lax.close()
    said = capfd.readouterr()
    assert "the engine is in its sandbox" in said.err
    assert "no filter was written for pdp11" in said.err


async def test_a_model_of_links_is_read_where_they_lead(place: Place, folder: Path) -> None:
    """As a cache of Hugging Face's has them."""
    snapshot = folder / "snapshot"
    snapshot.mkdir()
    for path in place.model.parent.iterdir():
        (snapshot / path.name).symlink_to(path)
    source = place.card.source.replace(str(place.model.parent), str(snapshot))
    engine = HostedEngine(
        msgspec.structs.replace(place.card, source=source),
        EngineOptions(cache_dir=place.cache),
        sandbox="required",
    )
    await engine.open()
    await engine.close()
