"""Where a node's limits are added up, and what is better otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervision.settings import ConfigInvalid
from tether.config import parse
from tether.config.cautions import cautions
from tether.node.limits_plan import limits_plan, valkey

RUN = Path("/run/x")
ALONE = """
[[models]]
name = "echo"
engine = "echo"
[[workers]]
id = "w"
models = ["echo"]
"""
NODES = (
    """
[node]
identity_dir = "id"
[stores]
postgres = "postgresql://localhost/t"
roles = true
"""
    + "".join(
        f'[[nodes]]\nid = "n{n}"\nhost = "10.0.0.{n}"\nleader = true\nroles = {roles}\n'
        for n, roles in enumerate(
            ('["door", "control"]', '["door", "control"]', '["control"]', '["worker"]')
        )
    )
    + ALONE
)
SHARED = '[redis]\nurl = "{}"\npassword_file = "secret"\n'


def test_a_lone_node_has_its_own() -> None:
    config = parse(ALONE, folder=Path("/srv"))
    plan = limits_plan(config, RUN)
    assert plan.store.url == "unix:///run/x/.vk/s" and (plan.parts, plan.share) == (1, 1.0)
    assert plan.store.password_file == "/srv/.tether/valkey/password"
    assert valkey(config, RUN) is not None


def test_nodes_without_a_common_one_have_even_parts_and_are_warned() -> None:
    config = parse(NODES, folder=Path("/srv"))
    plan = limits_plan(config.at("n0"), RUN)
    assert plan.store.url.startswith("unix:") and plan.parts == 1
    assert plan.share == pytest.approx(1 / 3)
    warned = [problem for problem in cautions(config.at("n0")) if problem.path == "redis.url"]
    assert "n0, n1, n2 have no common store" in str(warned[0])
    assert not [problem for problem in cautions(config.at("n3")) if problem.path == "redis.url"]
    assert valkey(config.at("n3"), RUN) is None


def test_nodes_with_a_common_one_share_it() -> None:
    config = parse(SHARED.format("rediss://db.example.org/1") + NODES, folder=Path("/srv"))
    plan = limits_plan(config.at("n1"), RUN)
    assert (plan.parts, plan.share) == (3, 1.0)
    assert plan.store.password_file == "/srv/secret"
    assert valkey(config.at("n1"), RUN) is None
    assert not [problem for problem in cautions(config.at("n1")) if problem.path == "redis.url"]


def test_what_goes_unencrypted_is_warned_of() -> None:
    def warned(url: str) -> list[str]:
        config = parse(f'[redis]\nurl = "{url}"\n' + ALONE, folder=Path("/srv"))
        return [str(problem) for problem in cautions(config)]

    assert any("go unencrypted to db.example.org" in w for w in warned("redis://db.example.org"))
    assert not warned("redis://127.0.0.1") and not warned("unix:///run/redis/s")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('url = "http://x"', "no URL of a Redis"),
        ('url = "rediss:///1"', "names no host"),
        ('url = "redis://h"\nca = "x"', "only rediss:// has a certificate"),
        ('url = "redis://:p@h"\npassword_file = "x"', "has a password already"),
        ('password_file = "x"', "there is no redis.url"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        parse(f"[redis]\n{text}\n" + ALONE, folder=Path("/srv"))
