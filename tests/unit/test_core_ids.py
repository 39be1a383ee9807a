"""Job ids are UUIDs of version 7."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from actors.core.ids import first_id, job_id


def test_the_example_of_the_rfc() -> None:
    # RFC 9562, A.6: 2022-02-22T19:22:22Z, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F
    random = ((0xCC3 << 64) | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    made = job_id(lambda: 0x017F22E279B0 * 1_000_000, lambda _: random)
    assert made == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(st.integers(0, 2**63 - 1), st.binary(min_size=10, max_size=10))
def test_version_variant_and_time(now_ns: int, random: bytes) -> None:
    made = uuid.UUID(job_id(lambda: now_ns, lambda _: random))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == (now_ns // 1_000_000) % 2**48


def test_they_differ_and_sort_by_time() -> None:
    made = [job_id(lambda n=n: n * 1_000_000) for n in range(1000)]
    assert made == sorted(set(made))
    assert len({job_id() for _ in range(1000)}) == 1000


@given(st.integers(0, 2**47), st.binary(min_size=10, max_size=10))
def test_the_first_of_a_time_is_above_all_before_it(now_ms: int, random: bytes) -> None:
    first = first_id(now_ms * 1_000_000)
    assert uuid.UUID(first).version == 7
    assert first <= job_id(lambda: now_ms * 1_000_000, lambda _: random)
    if now_ms:
        assert first > job_id(lambda: (now_ms - 1) * 1_000_000, lambda _: random)
