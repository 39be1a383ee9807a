"""Small models, keys, trust stores and replicas for the tests of artifacts; a real S3 server."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from actors.artifacts import digest, folder, manifest, signing
from actors.artifacts.cache import Cache
from actors.artifacts.manifest import Manifest
from actors.artifacts.pull import Pull
from actors.artifacts.push import Push, Pushed
from actors.artifacts.replica import Replica
from actors.artifacts.replicas import Replicas
from actors.artifacts.trust import Trust

MIB = 1 << 20
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def now() -> datetime:
    return NOW


def safetensors(size: int, seed: int = 0) -> bytes:
    """A file with one tensor of `size` bytes, all of them different from block to block."""
    head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(head).to_bytes(8, "little") + head + random.Random(seed).randbytes(size)


def make_model(path: Path, *, size: int = 9 * MIB, seed: int = 0) -> Path:
    """A folder as Hugging Face has them; two blocks of weights by default."""
    (path / "1_Pooling").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(safetensors(size, seed))
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "seed": seed}))
    (path / "tokenizer.json").write_text("{}")
    (path / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 8}')
    (path / "README.md").write_text("# A model\n")
    return path


class Signer:
    """A key pair, its private half in a file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.key"
        self.file.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def write_trust(path: Path, *signers: Signer, extra: str = "", **options: str) -> Path:
    """A trust store with these keys, all with the same `options`."""
    path.mkdir(exist_ok=True)
    lines = []
    for signer in signers:
        (path / f"{signer.name}.pem").write_bytes(signer.public)
        lines += ["[[keys]]", f'name = "{signer.name}"', f'file = "{signer.name}.pem"']
        lines += [f"{key} = {value}" for key, value in options.items()]
    (path / "trust.toml").write_text("\n".join([*lines, extra, ""]))
    return path


class Shop:
    """A model that is signed, three replicas in folders (or at `urls`), a trust store."""

    def __init__(
        self, path: Path, *, urls: list[str] | None = None, size: int = 9 * MIB, seed: int = 0
    ) -> None:
        self.path = path
        self.folder = make_model(path / "model", size=size, seed=seed)
        self.manifest: Manifest = folder.scan(self.folder)
        self.digest = digest.of(manifest.encode(self.manifest))
        self.signer = Signer(path, "release")
        self.trust = write_trust(path / "trust", self.signer)
        if urls is None:
            stores = [path / f"replica-{number}" for number in range(3)]
            for store in stores:
                store.mkdir()
            urls = [store.as_uri() for store in stores]
        self.urls = urls
        self.cache = Cache(path / "cache", 1 << 30)

    def replicas(self, **options: int) -> Replicas:
        """As a new process has them."""
        return Replicas([Replica(url) for url in self.urls], **options)

    def store(self, number: int) -> Path:
        """The folder of a replica."""
        return Path(self.urls[number].removeprefix("file://"))

    def bundle(self, signer: Signer | None = None) -> bytes:
        return signing.sign(self.folder, self.manifest, (signer or self.signer).file)

    async def push(self, *bundles: bytes, ref: str = "tiny@1", **options: int) -> Pushed:
        push = Push(self.replicas(), **options)
        return await push.push(
            self.folder, self.manifest, ref=ref, signatures=bundles or [self.bundle()]
        )

    def pull(self, replicas: Replicas | None = None, *, trusting: bool = False) -> Pull:
        trust = None if trusting else Trust.load(self.trust)
        return Pull(self.cache, replicas or self.replicas(), trust, now)

    def same(self, found: Path) -> bool:
        """Is `found` the folder that was pushed, to the byte?"""
        names = sorted(folder.listed(found))
        return names == sorted(folder.listed(self.folder)) and all(
            (found / name).read_bytes() == (self.folder / name).read_bytes() for name in names
        )


def flip(path: Path, at: int = -1) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def files(path: Path) -> list[Path]:
    return sorted(child for child in path.rglob("*") if child.is_file())


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class S3Server:
    """SeaweedFS with one identity; requests that it has not signed are refused."""

    access, secret = "tether", "a-secret-of-the-tests"

    def __init__(self) -> None:
        folder = self.folder = Path(tempfile.mkdtemp(prefix="tether-"))  # short, for its sockets
        identity = {
            "name": "tether",
            "credentials": [{"accessKey": self.access, "secretKey": self.secret}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "store").mkdir()
        ports = free_ports(8)
        self.port = ports[6]
        named = dict(zip(("master", "volume", "filer", "s3"), range(0, 8, 2), strict=True))
        options = [
            f"-{what}.port{kind}={ports[at + offset]}"
            for what, at in named.items()
            for kind, offset in (("", 0), (".grpc", 1))
        ]
        self._sockets = [  # it puts them there whatever it is told
            Path(f"/tmp/seaweedfs-{what}-grpc-{ports[at + 1]}.sock") for what, at in named.items()
        ]
        binary = str(Path(sys.executable).parent / "weed")
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [
                binary, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                f"-dir={folder / 'store'}", "-filer", "-s3", f"-s3.config={folder / 's3.json'}",
                "-volume.max=20", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
                "-s3.port.iceberg=0", "-s3.port.lance=0",
                f"-s3.localSocket={folder / 's'}", f"-filer.localSocket={folder / 'f'}", *options,
            ],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, bucket: str) -> str:
        """The replica in a bucket; it is made by the first write."""
        return f"s3://{bucket}/models?endpoint={self.endpoint}&credentials=TETHER_TEST_S3"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()
        for path in self._sockets:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        """Until it answers, and refuses a request without a signature."""
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.endpoint}/nothing/there", timeout=2)
                raise AssertionError("the server answers whoever asks")
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 403:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > until:
                tail = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the S3 server did not come up: {tail}")
            time.sleep(0.1)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    try:
        yield server
    finally:
        server.close()
