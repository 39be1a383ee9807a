"""The files of SQL: named queries, numbered migrations, options and checks that need no server."""

from __future__ import annotations

import msgspec
import pytest

from actors.contracts import Outcome, Reserve, Settle, Usage
from actors.core.ids import job_id
from actors.stores import keys
from actors.stores.database import migrations
from actors.stores.ledger import LedgerOptions
from actors.stores.message_check import check
from actors.stores.queries import QUERIES, parse, sql
from supervision.errors import BadRequest, Unauthenticated
from tests.support.messages import changed, reserve

SECRET = "A" * 21 + "-" * 21 + "_"


def test_every_query_has_a_sentence() -> None:
    assert {"settle_and_reserve", "contest", "sweep", "find_key"} <= set(QUERIES)
    for query in QUERIES.values():
        assert query.sentence[0].isupper() or query.sentence[0].isdigit(), query.name
        assert query.sentence.endswith("."), query.name
        assert not query.sql.endswith(";")


def test_a_query_is_found_by_its_name() -> None:
    assert sql("list_models").startswith("SELECT name")
    with pytest.raises(KeyError):
        sql("nothing")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-- name: one\n-- Does it.\n", "needs a sentence"),
        ("-- name: one\nSELECT 1;\n", "needs a sentence"),
        ("-- name: one\n-- A.\nSELECT 1;\n-- name: one\n-- A.\nSELECT 1;\n", "two queries"),
    ],
)
def test_a_broken_file_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_migrations_are_numbered_from_one() -> None:
    steps = migrations()
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert steps[0].name == "spine"


@pytest.mark.parametrize("tenant", ["a", "acme", "acme-2", "a_b", "0", "x" * 64, "a-" + "b" * 62])
def test_a_key_names_its_tenant(tenant: str) -> None:
    assert keys.tenant_of(f"tether-{tenant}-{SECRET}") == tenant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tether-",
        "tether-acme",
        SECRET,
        f"tether--{SECRET}",
        f"tether-acme{SECRET}",
        f"tether-Acme-{SECRET}",
        f"tether-acme--{SECRET}",
        f"tether-acme-{SECRET[:-1]}",
        f"tether-acme-{SECRET[:-1]}=",
        f"tether-acme-{SECRET}\n",
        f"tether-{'x' * 65}-{SECRET}",
        f"sk-acme-{SECRET}",
        "\0" * 60,
        "\ud800" * 60,
    ],
)
def test_what_is_no_key_is_not_authenticated(text: str) -> None:
    with pytest.raises(Unauthenticated):
        keys.tenant_of(text)
    assert len(keys.digest(text)) == 32  # nothing that a client sends can break the lookup


def test_options_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="sweep_s of the reservation must be above 0"):
        LedgerOptions(sweep_s=0)
    with pytest.raises(ValueError, match="lease_s of the reservation must be above 0"):
        LedgerOptions(lease_s=-1.0)


RESERVE = reserve()
SETTLE = Settle(job_id=job_id(), fencing_token=1, outcome=Outcome.COMPLETED, usage=Usage())


@pytest.mark.parametrize(
    "wrong",
    [
        changed(RESERVE, job_id="17"),
        changed(RESERVE, job_id=""),
        changed(RESERVE, deadline_s=0.0),
        changed(RESERVE, deadline_s=float("nan")),
        changed(RESERVE, attempt=0),
        changed(RESERVE, claim_token=-1),
        changed(RESERVE, held_claim_token=2**63),
        changed(RESERVE, lost_fencing_token=-1),
        changed(RESERVE, retry_token="x" * 513),
        changed(RESERVE, retry_token="a\0b"),
        msgspec.structs.replace(SETTLE, job_id="x" * 36),
        msgspec.structs.replace(SETTLE, fencing_token=2**63),
        msgspec.structs.replace(SETTLE, finish="st\0p"),
        msgspec.structs.replace(SETTLE, error_code="\0"),
        msgspec.structs.replace(SETTLE, finish="x" * 129),
        msgspec.structs.replace(SETTLE, error_code="x" * 129),
        msgspec.structs.replace(SETTLE, usage=Usage(prompt_tokens=-1)),
        msgspec.structs.replace(SETTLE, usage=Usage(completion_tokens=2**31)),
    ],
)
def test_what_would_fail_a_whole_round_is_refused_before_it(wrong: Reserve | Settle) -> None:
    with pytest.raises(BadRequest):
        check(wrong)


def test_what_is_well_formed_passes() -> None:
    assert str(check(RESERVE)) == RESERVE.job.job_id
    assert str(check(SETTLE)) == SETTLE.job_id
