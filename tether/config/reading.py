"""The reader of `cluster.toml`: every mistake is found at once, each with its key's path. Pure."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from actors.core.price_options import price_violations
from supervision.settings import ConfigInvalid, Problem, read_section
from tether.config.cluster_rules import cluster_violations
from tether.config.rules import violations
from tether.config.sections import Config


def load(path: Path, node: str | None = None) -> Config:
    """The configuration in the file at `path`; with `node`, as that node reads it: empty stands
    for the only one, or the one that TETHER_NODE names.

    Raises:
        ConfigInvalid: it cannot be read, is no TOML, or holds mistakes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _unusable(
            f"there is no {path}: name your file with --config, or copy cluster.toml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(f"{path} cannot be read: {error}") from None
    config = parse(text, folder=path.resolve().parent)
    return config if node is None else config.at(node or os.environ.get("TETHER_NODE", ""))


def parse(text: str, *, folder: Path) -> Config:
    """The configuration that `text` spells; relative paths start at `folder`.

    Raises:
        ConfigInvalid: with all mistakes.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _unusable(f"this is no valid TOML: {error}") from None
    problems: list[Problem] = []
    listed: dict[str, list[Any]] = {"models": [], "prices": [], "workers": [], "nodes": []}
    config = read_section(Config, raw, "", problems, listed)
    if config is None:
        raise ConfigInvalid(tuple(problems))
    unread = {p.path for p in problems}
    found = [
        *violations(config, listed["models"], listed["workers"]),
        *price_violations(listed["prices"]),
        *cluster_violations(config, listed["nodes"], listed["workers"]),
    ]
    problems.extend(p for p in found if p.path not in unread)
    if problems:
        raise ConfigInvalid(tuple(problems))
    return msgspec.structs.replace(config, folder=folder)


def _unusable(sentence: str) -> ConfigInvalid:
    return ConfigInvalid((Problem("", sentence),))
