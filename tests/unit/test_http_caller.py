"""What a request's headers say of its caller."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervision.errors import (
    BadRequest,
    Unauthenticated,
)
from supervision.tree_view import index_of
from tether.http.caller import check_once, read_caller, tenant_of
from tether.http.options import DoorOptions

OPTIONS = DoorOptions(default_deadline_s=120, max_deadline_s=600)
AUTH = {b"authorization": b"Bearer tether-acme-k1"}


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({b"authorization": b"Bearer abc"}, "abc"),
        ({b"authorization": b"bearer   abc "}, "abc"),
        ({b"x-api-key": b"abc"}, "abc"),
        ({b"x-api-key": b"other", b"authorization": b"Bearer abc"}, "abc"),
    ],
)
def test_keys_come_from_either_header(headers: dict[bytes, bytes], key: str) -> None:
    assert read_caller(headers, OPTIONS).credential == key


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b"Basic abc"},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Bearer " + b"x" * 513},
        {b"authorization": b"Bearer \xff\xfe"},
        {b"x-api-key": b" "},
    ],
)
def test_what_is_no_key_is_refused(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Unauthenticated):
        read_caller(headers, OPTIONS)


def test_deadline_header() -> None:
    assert read_caller(AUTH, OPTIONS).deadline_s == 120
    assert read_caller({**AUTH, b"x-request-timeout-s": b"2.5"}, OPTIONS).deadline_s == 2.5
    assert read_caller({**AUTH, b"x-request-timeout-s": b"1e9"}, OPTIONS).deadline_s == 600
    for bad in (b"0", b"-1", b"nan", b"inf", b"soon", b""):
        with pytest.raises(BadRequest) as caught:
            read_caller({**AUTH, b"x-request-timeout-s": bad}, OPTIONS)
        assert caught.value.param == "x-request-timeout-s"


def test_idempotency_key() -> None:
    assert read_caller(AUTH, OPTIONS).retry_token == ""
    assert read_caller({**AUTH, b"idempotency-key": b"k 1"}, OPTIONS).retry_token == "k 1"
    longest = b"x" * 255
    assert read_caller({**AUTH, b"idempotency-key": longest}, OPTIONS).retry_token == "x" * 255
    for bad in (b"", b"x" * 256, b"\xff", b"a\tb", b"a\x7f"):
        with pytest.raises(BadRequest) as caught:
            read_caller({**AUTH, b"idempotency-key": bad}, OPTIONS)
        assert caught.value.param == "Idempotency-Key"


def test_two_idempotency_keys_are_refused() -> None:
    one = (b"idempotency-key", b"k")
    check_once([one, (b"accept", b"*")])
    with pytest.raises(BadRequest) as caught:
        check_once([one, (b"accept", b"*"), one])
    assert caught.value.param == "Idempotency-Key"


@pytest.mark.parametrize(
    ("headers", "joins"),
    [
        ({}, True),
        ({b"x-tether-join": b"never"}, False),
        ({b"x-tether-join": b"Always"}, True),
        ({b"prefer": b"respond-async"}, False),
        ({b"prefer": b"wait=10, Respond-Async; x=1"}, False),
        ({b"prefer": b"handling=lenient"}, True),
        ({b"prefer": b"respond-async", b"x-tether-join": b"always"}, True),
    ],
)
def test_who_does_not_want_to_join_says_so(headers: dict[bytes, bytes], joins: bool) -> None:
    assert read_caller({**AUTH, **headers}, OPTIONS).join is joins


def test_a_word_about_joining_that_means_nothing_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        read_caller({**AUTH, b"x-tether-join": b"maybe"}, OPTIONS)
    assert caught.value.param == "x-tether-join"


TENANTS = st.from_regex(r"\A[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?\Z")
SECRETS = st.text("abAB01-_", min_size=43, max_size=43)


@given(TENANTS, SECRETS, SECRETS)
def test_all_keys_of_a_tenant_have_one_partition(tenant: str, one: str, other: str) -> None:
    """Whatever dashes are in its name, or in the secret."""
    assert tenant_of(f"tether-{tenant}-{one}") == tenant_of(f"tether-{tenant}-{other}") == tenant


def test_tenants_whose_names_begin_alike_are_spread_over_the_gateways() -> None:
    secret = "s" * 43
    keys = (f"tether-org-{number}-{secret}" for number in range(10_000))
    found = Counter(index_of(tenant_of(key), 8) for key in keys)
    assert len(found) == 8 and max(found.values()) < 1.2 * 10_000 / 8


def test_partition_is_stable_between_releases() -> None:
    assert [index_of(name, 4) for name in ("acme", "bolt", "")] == [2, 3, 0]


@pytest.mark.parametrize("key", ["sk-123-x", "", "tether-acme-short", "tether--" + "s" * 43])
def test_what_is_no_key_of_ours_has_a_partition_too(key: str) -> None:
    assert tenant_of(key) == key
