"""`tether models` and `tether artifacts`, from a folder to a worker's engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.errors import ArtifactRefused
from actors.worker import loader
from supervision.settings import ConfigInvalid
from tests.support.artifact_shop import Shop, Signer, files, flip, write_trust
from tether.cli import app
from tether.config import load
from tether.node.plan import artifacts_of, card_of

Tether = Callable[..., str]


@pytest.fixture
def shop(tmp_path: Path, dsn: str) -> Shop:
    """With a configuration beside it, and a database of the registry."""
    shop = Shop(tmp_path, size=1000)
    (tmp_path / "cluster.toml").write_text(
        f"""
        [node]
        cache_dir = "node"
        [artifacts]
        replicas = {json.dumps(shop.urls)}
        [stores]
        postgres = {json.dumps(dsn)}
        [[models]]
        name = "echo"
        engine = "echo"
        [[workers]]
        id = "w"
        models = ["echo"]
        """
    )
    return shop


@pytest.fixture
def tether(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Tether:
    """Runs a command; what it printed, or with `fails` or `says`, what it told besides."""
    monkeypatch.setattr("tether.cli.artifacts.logs.configure", lambda _level: None)

    def run(*words: str, fails: int = 0, says: bool = False) -> str:
        capsys.readouterr()
        code = app._guarded([*words, "--config", str(shop.path / "cluster.toml")])
        out, errors = capsys.readouterr()
        assert code == fails, errors
        return errors if fails or says else out

    return run


def test_a_model_s_life(shop: Shop, tether: Tether) -> None:
    folder, key = str(shop.folder), str(shop.signer.file)
    address = f"sha256:{shop.digest}"
    assert "one of them" in tether("models", "push", folder, "org/tiny@1", fails=2)
    assert tether("models", "push", folder, "org/tiny@1", "--key", key).strip() == address
    told = tether("models", "push", folder, "tiny@7", "--unsigned", says=True)
    assert "will not load it" in told and "is not signed" in told
    tether("artifacts", "forget", "tiny@7")
    assert "no name@version" in tether("models", "push", folder, "x", "--unsigned", fails=1)

    assert "org/tiny@1" in tether("models", "ls") and "3 of 3" in tether("models", "ls")
    found = Path(tether("models", "pull", "org/tiny@1", "--pin").strip())
    assert shop.same(found)
    [listed] = [json.loads(line) for line in tether("models", "ls", "--json").splitlines()]
    assert (listed["address"], listed["here"]) == (address, "pinned")
    tether("models", "unpin", address)
    assert "signed by: release" in tether("models", "verify", address)
    assert "no replica knows" in tether("models", "pull", "tiny@9", fails=1)

    new = Signer(shop.path, "new")
    assert "at 3 replicas" in tether("models", "sign", "org/tiny@1", "--key", str(new.file))
    write_trust(shop.trust, new)
    assert "signed by: new" in tether("models", "verify", "org/tiny@1")

    flip(files(shop.store(1) / "blocks")[0])
    assert "repaired 1" in tether("artifacts", "repair")
    assert "repaired 0" in tether("artifacts", "repair", "--quick")
    assert "removed 0" in tether("artifacts", "gc")
    assert "forgot" in tether("artifacts", "forget", "org/tiny@1")
    assert "more are unused" in tether("artifacts", "gc", "--grace-hours", "0")
    assert "removed 0 objects" not in tether("artifacts", "gc", "--grace-hours", "0")
    assert not files(shop.store(0) / "blocks")


def test_a_file_that_was_changed_in_the_cache(shop: Shop, tether: Tether) -> None:
    """`verify` reads all of it, also where its stamp still says that nothing has changed."""
    tether("models", "push", str(shop.folder), "tiny@1", "--key", str(shop.signer.file))
    found = Path(tether("models", "pull", "tiny@1").strip())
    flip(found / "model.safetensors")
    assert Path(tether("models", "pull", "tiny@1").splitlines()[-1]) == found  # fetched again
    assert shop.same(found)
    stamps = found.parent / "stamps.json"
    flip(found / "model.safetensors")
    from actors.artifacts.entry import stamp

    known = json.loads(stamps.read_bytes())
    known["model.safetensors"] = stamp(found / "model.safetensors")  # a disk that rots
    stamps.write_text(json.dumps(known))
    assert "model.safetensors was changed" in tether("models", "verify", "tiny@1", fails=1)
    assert "5 files are whole" in tether("models", "verify", "tiny@1")


def test_trust_is_turned_off_by_name_and_loudly(shop: Shop, tether: Tether) -> None:
    tether("models", "push", str(shop.folder), "tiny@1", "--unsigned")
    assert "is not signed" in tether("models", "pull", "tiny@1", fails=1)
    config = shop.path / "cluster.toml"
    config.write_text(config.read_text().replace("[artifacts]", '[artifacts]\ntrust = "off"'))
    command = [sys.executable, "-m", "tether.cli", "models", "pull", "tiny@1", "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert shop.same(Path(done.stdout.strip()))
    assert 'trust = "off": nobody vouches' in done.stderr


def test_a_worker_is_given_what_is_signed_and_nothing_else(shop: Shop, tether: Tether) -> None:
    """From `source = "artifact:…"` in cluster.toml to the folder that an engine opens."""
    tether("models", "push", str(shop.folder), "tiny@1", "--key", str(shop.signer.file))
    path = shop.path / "cluster.toml"
    source = f"artifact:sha256:{shop.digest}"
    written = path.read_text()
    changed = f'engine = "transformers"\nsource = "{source}"'
    path.write_text(written.replace('engine = "echo"', changed))
    config = load(path)
    card, artifacts = card_of(config, config.models[0]), artifacts_of(config)
    assert card.source == source
    ready = loader._prepared(card, config.cache_dir, artifacts)
    assert shop.same(Path(ready.source))
    assert "removed 0" in tether("artifacts", "forget", "tiny@1") + tether("artifacts", "gc")
    assert "are unused" not in tether("artifacts", "gc")  # the configuration names it

    write_trust(shop.trust, shop.signer, revoked='"stolen"')
    with pytest.raises(ArtifactRefused, match="release, which was revoked: stolen"):
        loader._prepared(card, config.cache_dir, artifacts)
    path.write_text(written.replace('engine = "echo"', changed.replace("sha256:", "sha256:0")))
    with pytest.raises(ConfigInvalid, match="64 hex digits"):
        load(path)
