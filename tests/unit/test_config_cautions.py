"""What of a configuration works, and is better otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_config import ROOT, SMALL
from tether.config import load, parse
from tether.config.cautions import cautions, hosts_of, secrets_in

TLS = "[http.tls]\ncertificate = 'a.crt'\nkey = 'a.key'\n"


def told(text: str) -> dict[str, str]:
    return {p.path: p.sentence for p in cautions(parse(text + SMALL, folder=Path("/srv")))}


def test_what_stays_on_this_machine_is_nobody_s_business() -> None:
    assert told("") == {}
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"):
        assert told(f"[http]\nhost = '{host}'\n[node]\nmetrics = '{host}:9464'\n") == {}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "n1.example.org"])
def test_plain_http_for_others(host: str) -> None:
    found = told(f"[http]\nhost = '{host}'\n")
    assert set(found) == {"http.tls"} and f"plain HTTP to {host}:8080" in found["http.tls"]
    assert told(f"[http]\nhost = '{host}'\n{TLS}") == {}


def test_metrics_for_others() -> None:
    assert "names of all models" in told("[node]\nmetrics = '[::]:9464'\n")["node.metrics"]
    assert told("[node]\nmetrics = ''\n") == {}


def dsn(text: str) -> dict[str, str]:
    return told(f"[stores]\npostgres = '{text}'\n")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u@db.example.org/t",
        "postgresql://u:p@db.example.org:5432/t?sslmode=require",
        "postgresql://u@db.example.org/t?sslmode=verify-ca",
        "postgresql://u@127.0.0.1,db.example.org:5433/t",
        "postgresql://u@[2001:db8::1]:5432/t",
        "postgresql://u@/t?host=db.example.org",
    ],
)
def test_a_database_that_is_believed_to_be_one(text: str) -> None:
    assert "sslmode=verify-full" in dsn(text)["stores.postgres"]


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u@db.example.org/t?sslmode=verify-full",
        "postgresql://u@localhost/t",
        "postgresql://u@127.0.0.1:5432,[::1]:5432/t",
        "postgresql:///t",
        "postgresql://u@/t?host=/run/postgresql",
        "postgresql://%2Frun%2Fpostgresql/t",
    ],
)
def test_one_that_is_known_or_here(text: str) -> None:
    assert dsn(text) == {}


def test_each_node_is_judged_as_it_is() -> None:
    text = (
        "[node]\nidentity_dir = 'i'\ndata_dir = '{node}'\n[http]\nhost = '{host}'\n"
        "[stores]\npostgres = 'postgresql://localhost/t'\n"
        "[[nodes]]\nid = 'a'\nhost = '10.0.0.1'\nleader = true\n"
        "[[nodes]]\nid = 'b'\nhost = '10.0.0.2'\nroles = ['worker']\n"
    )
    config = parse(text + SMALL, folder=Path("/srv"))
    assert [p.path for p in cautions(config.at("a"))] == ["http.tls"]
    assert list(cautions(config.at("b"))) == []  # it has no door


def test_which_keys_hold_secrets() -> None:
    def held(text: str) -> list[str]:
        return list(secrets_in(parse(text + SMALL, folder=Path("/srv"))))

    assert held("") == held("[stores]\npostgres = 'postgresql://u@db/t'\n") == []
    assert held("[stores]\npostgres = 'postgresql://u:p@db/t'\n") == ["stores.postgres"]
    assert held("[stores]\npostgres = 'postgresql://u@db/t?password=p'\n") == ["stores.postgres"]
    replicas = "[artifacts]\nquorum = 2\nreplicas = ['s3://a/b?credentials=X', 's3://a/c?{}=1']\n"
    assert held(replicas.format("secret_access_key")) == ["artifacts.replicas[1]"]
    assert held(replicas.format("region")) == []


def test_the_example_of_a_cluster_is_one() -> None:
    config = load(ROOT / "docs/cluster.example.toml")
    for member in config.nodes:
        assert list(cautions(config.at(member.id))) == []


def test_hosts_of_a_dsn() -> None:
    assert hosts_of("postgresql://u:p@a:1,[::1]:2,c/t") == ["a", "::1", "c"]
    assert hosts_of("postgresql:///t") == []
    assert hosts_of("postgresql://u@/t?host=/x,/y") == ["/x", "/y"]
