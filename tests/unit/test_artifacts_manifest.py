"""What an artifact may be made of, and that one text stands for one manifest."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.artifacts import digest, filename, folder, layout, manifest
from actors.artifacts.manifest import BLOCK, File
from actors.errors import ArtifactRefused
from supervision.errors import BadRequest
from tests.support.artifact_shop import make_model, safetensors
from tests.support.properties import examples

HEX = digest.of(b"x")


def a_file(name: str = "model.safetensors", size: int = 5) -> File:
    blocks = tuple(digest.of(b"%d" % n) for n in range(-(-size // BLOCK)))
    return File(name, size, filename.media_type(name), HEX, blocks)


def refusal(content: bytes) -> str:
    with pytest.raises(ArtifactRefused) as refused:
        manifest.decode(content, digest.of(content))
    return refused.value.message


names = st.text("abcXYZ019._-", min_size=1, max_size=12).map(lambda text: f"{text}.json")


@given(st.lists(st.tuples(names, st.integers(1, 3 * BLOCK)), min_size=1, max_size=6))
def test_what_is_made_is_read_again_and_has_one_text(entries: list[tuple[str, int]]) -> None:
    try:
        made = manifest.make([a_file("m.gguf"), *(a_file(name, size) for name, size in entries)])
    except (ArtifactRefused, KeyError):
        return  # hidden names, doubles
    content = manifest.encode(made)
    assert manifest.decode(content, digest.of(content)) == made
    assert manifest.encode(manifest.make(list(reversed(made.files)))) == content
    assert made.size == sum(made.blocks().values()) or len(made.files) > 1


@given(st.data())
@settings(max_examples=examples(60))
def test_no_changed_byte_is_taken_for_the_manifest(data: st.DataObject) -> None:
    content = bytearray(manifest.encode(manifest.make([a_file(), a_file("config.json")])))
    wanted = digest.of(content)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ArtifactRefused):
        manifest.decode(content, wanted)
    # also with an address of its own it is a manifest only if it is canonical and sound
    try:
        again = manifest.decode(bytes(content), digest.of(content))
    except ArtifactRefused:
        return
    assert manifest.encode(again) == bytes(content)


@given(st.text(max_size=40))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    if filename.fault(name) is None:
        root = Path("/somewhere/files")
        assert Path(os.path.normpath(root / name)).is_relative_to(root)
        assert not any(part.startswith(".") for part in name.split("/"))
        assert name.isascii()
        assert filename.media_type(name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../evil.json", "plain"),
        ("/etc/passwd.json", "plain"),
        ("a/../../b.json", "plain"),
        ("a//b.json", "plain"),
        ("a\\b.json", "plain"),
        ("a\0.json", "plain"),
        ("naïve.json", "plain"),
        ("", "plain"),
        (".", "plain"),
        (".gitattributes", "hidden"),
        (".git/config.json", "hidden"),
        ("a/b/c/d/e.json", "deep"),
        ("x" * 300 + ".json", "255"),
        ("pytorch_model.bin", "pickle"),
        ("model.PT", "pickle"),
        ("weights.pkl", "pickle"),
        ("weights.ckpt", "pickle"),
        ("training_args.npy", "pickle"),
        ("modeling_llama.py", "code"),
        ("lib.so", "code"),
        ("weights.onnx", "no kind"),
        ("model.model", "no kind"),
        ("Makefile", "no kind"),
    ],
)
def test_a_name_is_refused_with_its_reason(name: str, told: str) -> None:
    assert told in (filename.fault(name) or "")
    entry = File(name, 5, "application/json", HEX, (HEX,))
    raw = {**msgspec.to_builtins(manifest.make([a_file()])), "files": [msgspec.to_builtins(entry)]}
    assert told in refusal(msgspec.json.encode(raw))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "tether/artifact/2"},
        {"block_bytes": 1024},
        {"files": []},
        {"more": 1},
    ],
)
def test_a_manifest_of_another_kind_is_refused(change: dict[str, object]) -> None:
    raw = {**msgspec.to_builtins(manifest.make([a_file()])), **change}
    refusal(msgspec.json.encode(raw))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": 0}, "no manifest"),
        ({"size": BLOCK + 1}, "blocks"),
        ({"blocks": ()}, "blocks"),
        ({"blocks": (HEX, HEX)}, "blocks"),
        ({"blocks": ("../" + HEX[3:],)}, "no manifest"),
        ({"sha256": HEX.upper()}, "no manifest"),
        ({"sha256": HEX + "\n"}, "no manifest"),
        ({"media_type": "text/html"}, "media type"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change: dict[str, object], told: str) -> None:
    entry = {**msgspec.to_builtins(a_file()), **change}
    raw = {**msgspec.to_builtins(manifest.make([a_file()])), "files": [entry]}
    assert told in refusal(msgspec.json.encode(raw))


def test_the_same_manifest_in_other_words_is_refused() -> None:
    content = manifest.encode(manifest.make([a_file(), a_file("config.json")]))
    assert "canonical" in refusal(content.replace(b'":"', b'": "', 1))
    raw = msgspec.json.decode(content)
    raw["files"].reverse()
    assert "sorted" in refusal(msgspec.json.encode(raw))


def test_names_that_collide_are_refused() -> None:
    assert "same file" in (filename.clash(["a.json", "A.json"]) or "")
    assert "folder" in (filename.clash(["a.json", "a.json/b.json"]) or "")
    assert filename.clash(["a.json", "a/b.json", "b.json"]) is None


def test_a_folder_becomes_a_manifest(tmp_path: Path) -> None:
    made = folder.scan(make_model(tmp_path / "m"))
    assert [file.name for file in made.files] == [
        "1_Pooling/config.json", "README.md", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    weights = next(file for file in made.files if file.name == "model.safetensors")
    content = (tmp_path / "m" / "model.safetensors").read_bytes()
    assert weights.sha256 == digest.of(content)
    assert weights.blocks == (digest.of(content[:BLOCK]), digest.of(content[BLOCK:]))


def test_what_a_folder_may_not_hold_is_named(tmp_path: Path) -> None:
    def told(spoil: str) -> str:
        root = make_model(tmp_path / spoil.replace("/", "_"), size=100)
        match spoil:
            case "link":
                (root / "x.json").symlink_to(root / "config.json")
            case "folder link":
                (root / "sub").symlink_to("/etc")
            case "hidden":
                (root / ".git").mkdir()
                (root / ".git" / "config.json").write_text("{}")
            case "pipe":
                os.mkfifo(root / "x.json")
            case "pickle":
                (root / "pytorch_model.bin").write_bytes(b"\x80\x04.")
            case "code":
                (root / "modeling_x.py").write_text("print()")
            case "remote code":
                (root / "config.json").write_text('{"auto_map": {"AutoModel": "evil--x.Y"}}')
            case "tokenizer code":
                (root / "tokenizer.json").write_text('{"auto_map": ["a.B", null]}')
            case "empty":
                (root / "README.md").write_bytes(b"")
            case "no json":
                (root / "config.json").write_text("{")
            case "no weights":
                (root / "model.safetensors").unlink()
            case "no safetensors":
                (root / "model.safetensors").write_bytes(b"\x80\x04" * 50)
            case "no gguf":
                (root / "x.gguf").write_bytes(b"PK\x03\x04")
        with pytest.raises(ArtifactRefused) as refused:
            folder.scan(root)
        return refused.value.message

    assert "x.json is a symbolic link" in told("link")
    assert "sub is a symbolic link" in told("folder link")
    assert ".git is hidden" in told("hidden")
    assert "no plain file" in told("pipe")
    assert "pytorch_model.bin may hold a pickle" in told("pickle")
    assert "modeling_x.py is code" in told("code")
    assert "config.json asks for code of its own (auto_map)" in told("remote code")
    assert "tokenizer.json asks for code" in told("tokenizer code")
    assert "README.md is empty" in told("empty")
    assert "config.json is no JSON" in told("no json")
    assert "no weights" in told("no weights")
    assert "no safetensors file" in told("no safetensors")
    assert "no GGUF" in told("no gguf")
    with pytest.raises(ArtifactRefused, match="no folder"):
        folder.scan(tmp_path / "nowhere")


def test_a_gguf_file_alone_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    assert folder.scan(tmp_path).files[0].media_type == "application/vnd.gguf"
    (tmp_path / "x.safetensors").write_bytes(safetensors(10))
    assert len(folder.scan(tmp_path).files) == 2


@pytest.mark.parametrize(
    "text",
    ["", "a", "a@", "@1", "../a@1", "a/../b@1", "a@1/2", "a@../1", "a b@1", ".a@1", "a//b@1"],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        layout.ref(text)


def test_addresses() -> None:
    assert digest.parse(digest.address(HEX)) == HEX
    assert digest.parse(f"artifact:sha256:{HEX}") == HEX
    assert layout.ref("org/model.v1@2026-1") == "refs/org/model.v1@2026-1"
    assert layout.digest_in(layout.block(HEX)) == HEX
    assert layout.digest_in(layout.signature(HEX, HEX)) == HEX
    assert layout.digest_in(layout.CONDEMNED) is None
    for wrong in (HEX, f"sha256:{HEX[1:]}", f"sha256:{HEX}\n", f"sha1:{HEX}"):
        with pytest.raises(BadRequest):
            digest.parse(wrong)
