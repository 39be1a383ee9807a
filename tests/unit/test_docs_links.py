"""Documents hang together: links lead somewhere, what they name exists, and an ADR is one page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("tether", "actors", "supervision", "bench", "tests", "examples")
FOLDERS = (*PACKAGES, "docs", "scripts", "packaging")
HISTORY = "CHANGELOG.md"  # may name what was and is no more
SECTIONS = ["Context", "Decision", "What it costs", "When to revisit"]
MAX_LINES, MAX_WIDTH = 60, 110  # of an ADR; rows of tables may be wider

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")
HEADING = re.compile(r"^(#+) +(.+?) *$", re.MULTILINE)
LINK = re.compile(r"\[((?:[^\[\]\n]|\n(?!\n))*)\]\(([^()\s]+)\)")
ADR = re.compile(r"\d{4}-[a-z0-9-]+\.md")
HOP = re.compile(r"([\w/]+\.py):([\w.]+)")  # a function or method, by its file
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")  # a test, as pytest calls it
THREATS = "docs/security.md"
KINDS = ("spoofing", "tampering", "repudiation", "disclosure", "denial", "elevation")  # STRIDE
NAMED = re.compile(r"(?<!ggml's )\bdocs/(?:adr/[\w-]+(?:\.md)?|[\w-]+\.md)")  # in code


def documents(root: Path) -> Iterator[Path]:
    for name in ("README.md", "CONTRIBUTING.md", HISTORY, "bench/README.md"):
        if (root / name).exists():
            yield root / name
    yield from sorted((root / "docs").rglob("*.md"))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a document: lower case, punctuation left
    out, hyphens for blanks, and a number behind what was there already."""
    found: set[str] = set()
    for _, heading in HEADING.findall(FENCE.sub("", text)):
        shown = LINK.sub(r"\1", heading)
        slug = base = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        again = 0
        while slug in found:
            again += 1
            slug = f"{base}-{again}"
        found.add(slug)
    return found


def wrong_links(document: Path, text: str) -> Iterator[str]:
    for shown, target in LINK.findall(CODE.sub("code", FENCE.sub("", text))):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = document.parent / path if path else document
        if not there.exists():
            yield f"[{shown}]({target}): there is no {path}"
        elif anchor and anchor not in anchors(there.read_text()):
            yield f"[{shown}]({target}): {there.name} has no heading #{anchor}"


def is_module(root: Path, name: str) -> bool:
    """Is `name` a package, a module, or something that one of them has?"""
    there, parts = root, name.split(".")
    for at, part in enumerate(parts):
        if (there / part).is_dir():
            there /= part
            continue
        module = there / f"{part}.py"
        if module.exists():
            rest = parts[at + 1 :]
        else:
            module, rest = there / "__init__.py", parts[at:]
        if not rest:
            return True
        return module.exists() and re.search(rf"\b{rest[0]}\b", module.read_text()) is not None
    return True


def defines(module: Path, name: str) -> bool:
    """Has the module this function or class; of `Class.method`, both?"""
    if not module.exists():
        return False
    text = module.read_text()
    return all(re.search(rf"\b(?:def|class) {part}\b", text) for part in name.split("."))


def wrong_names(root: Path, text: str) -> Iterator[str]:
    for code in CODE.findall(FENCE.sub("", text)):
        folder, slash, rest = code.partition("/")
        there = True
        if hop := HOP.fullmatch(code):
            there = defines(root / hop[1], hop[2])
        elif test := TEST.fullmatch(code):
            there = defines(root / test[1], test[2])
        elif slash and folder and re.fullmatch(r"[\w./@-]+", code):
            ours = code.endswith(".py") or (folder in FOLDERS and not rest.isdigit())
            there = not ours or (root / code).exists()
        elif re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", code):
            there = is_module(root, code)
        if not there:
            yield f"`{code}` isn't there"


def wrong_threats(text: str) -> Iterator[str]:
    """Rows of the threat model without a test, and without the words that say so, and boundaries
    without a row."""
    for heading, rows in re.findall(r"^### (.+)\n((?:(?!#).*\n)*)", text, re.MULTILINE):
        threats = [
            row for row in rows.splitlines() if row.startswith(tuple(f"| {k}" for k in KINDS))
        ]
        if not threats:
            yield f"{heading!r} has no row"
        for row in threats:
            if not (TEST.search(row) or "not held" in row):
                yield f"{row!r} names no test"


def wrong_page(adr: Path, text: str) -> Iterator[str]:
    """What keeps an ADR from being one page with the four sections."""
    headings = HEADING.findall(FENCE.sub("", text))
    titles = [heading for hashes, heading in headings if hashes == "#"]
    if len(titles) != 1 or not titles[0].startswith(f"{int(adr.name[:4])}. "):
        yield f"its title must begin with {int(adr.name[:4])}, a dot and a blank"
    sections = [heading for hashes, heading in headings if hashes != "#"]
    if sections != SECTIONS:
        yield f"its sections are {sections}, not {SECTIONS}"
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        yield f"it has {len(lines)} lines, and one page is {MAX_LINES}"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_WIDTH and not line.startswith("|"):
            yield f"line {number} is {len(line)} wide, and a page is {MAX_WIDTH}"


def wrong(root: Path) -> list[str]:
    """All faults of the documents below `root`, each with its document."""
    listed = root / "docs/README.md"
    contents = listed.read_text()
    faults = []
    for document in documents(root):
        text, name = document.read_text(), document.relative_to(root)
        found = list(wrong_links(document, text))
        if document.name != HISTORY:
            found += wrong_names(root, text)
        if str(name) == THREATS:
            found += wrong_threats(text)
        if document.parent.name == "adr":
            found += wrong_page(document, text) if ADR.fullmatch(document.name) else ["no number"]
        listed_as = f"]({document.relative_to(root / 'docs')})" if name.parts[0] == "docs" else ""
        if document != listed and listed_as not in contents:
            found.append("docs/README.md doesn't list it")
        faults += [f"{name}: {fault}" for fault in found]
    return faults


def test_documents_hang_together() -> None:
    assert wrong(ROOT) == []


def test_what_code_says_of_documents_is_there() -> None:
    wrong = [
        f"{module.relative_to(ROOT)}: {name}"
        for package in PACKAGES
        for module in (ROOT / package).rglob("*.py")
        if module != Path(__file__)
        for name in NAMED.findall(module.read_text())
        if not (ROOT / name).is_file()
    ]
    assert wrong == []


PAGE = "# 1. One\n\n## Context\n\n## Decision\n\n## What it costs\n\n## When to revisit\n"
SOUND = {
    "README.md": "# R\n\nSee [a\nb](docs/a.md#one--two-v1), `tether/x.py`, `tether.x.y`, `a/b`\n"
    "`tether/x.py:C.m`\n",
    "docs/README.md": "# D\n\n[a](a.md) [s](security.md) [1](adr/0001-one.md) [out](https://example.org/#x)\n",
    "docs/a.md": "# A\n\n## `One` & two, v1\n\n## One\n\n## One\n\n[again](#one-1)\n"
    "```\n# no heading, [no link](nowhere)\n```\n`[no](link)`\n",
    "docs/adr/0001-one.md": PAGE,
    "tether/__init__.py": "",
    "tether/x.py": "y = 1\nclass C:\n    def m(self): ...\n",
    "tests/t.py": "def test_y(): ...\n",
    "docs/security.md": "# S\n\n### A\n\n| denial | b | not held |\n"
    "| denial | c | `tests/t.py::test_y` |\n",
}


def planted(root: Path, changed: dict[str, str]) -> list[str]:
    for name, text in (SOUND | changed).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return wrong(root)


def test_sound_documents_have_no_fault(tmp_path: Path) -> None:
    assert planted(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("README.md", "[a](docs/b.md)", "there is no docs/b.md"),
        ("README.md", "[a\nb](docs/a.md#two)", "a.md has no heading #two"),
        ("docs/a.md", "# A\n\n[up](#b)", "a.md has no heading #b"),
        ("docs/a.md", "# A\n\n```\n# B\n```\n[up](#b)", "a.md has no heading #b"),
        ("docs/a.md", "`tether/z.py`", "`tether/z.py` isn't there"),
        ("docs/a.md", "`other/z.py`", "`other/z.py` isn't there"),
        ("docs/a.md", "`scripts/z`", "`scripts/z` isn't there"),
        ("docs/a.md", "`tether.z`", "`tether.z` isn't there"),
        ("docs/a.md", "`tether.x.z`", "`tether.x.z` isn't there"),
        ("docs/a.md", "`tether/x.py:C.n`", "`tether/x.py:C.n` isn't there"),
        ("docs/a.md", "`tether/z.py:C.m`", "`tether/z.py:C.m` isn't there"),
        ("docs/b.md", "# B", "docs/README.md doesn't list it"),
        ("docs/a.md", "`tests/x.py::test_y`", "`tests/x.py::test_y` isn't there"),
        ("docs/a.md", "`tests/t.py::test_z`", "`tests/t.py::test_z` isn't there"),
        ("docs/security.md", "### A\n\n| denial | b | c |\n", "names no test"),
        ("docs/security.md", "### A\n\n### B\n", "'A' has no row"),
        ("docs/adr/0001-one.md", PAGE + "## Seen\n", "its sections are"),
        ("docs/adr/0001-one.md", PAGE.replace("## Decision", "### Decision\n\n## x"), "sections"),
        ("docs/adr/0001-one.md", PAGE.replace("# 1.", "# 2."), "its title must begin with 1"),
        ("docs/adr/0001-one.md", PAGE + "x\n" * 52, "it has 61 lines"),
        ("docs/adr/0001-one.md", PAGE + "x" * 111, "line 10 is 111 wide"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, name: str, text: str, fault: str) -> None:
    faults = planted(tmp_path, {name: text})
    assert any(found.startswith(f"{name}: ") and fault in found for found in faults), faults


def test_a_changelog_may_name_what_is_gone(tmp_path: Path) -> None:
    assert planted(tmp_path, {HISTORY: "`tether/z.py` is `tether/x.py`"}) == []
    assert planted(tmp_path, {HISTORY: "[a](docs/b.md)"}) != []
