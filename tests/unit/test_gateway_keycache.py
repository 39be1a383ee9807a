"""API keys, kept for a while."""

from __future__ import annotations

from actors.gateway.keycache import KeyCache


def test_known_and_unknown_keys_are_remembered_for_a_while() -> None:
    cache: KeyCache[str] = KeyCache(bound=2, present_s=60, absent_s=5)
    assert cache.get(b"a", 0.0) == (False, None)
    cache.put(b"a", "acme", 0.0)
    cache.put(b"b", None, 0.0)
    assert cache.get(b"a", 59.9) == (True, "acme")
    assert cache.get(b"b", 4.9) == (True, None)
    assert cache.get(b"b", 5.0) == (False, None)
    assert cache.get(b"a", 60.0) == (False, None)


def test_the_key_cache_forgets_the_least_used_and_whatever_it_is_told() -> None:
    cache: KeyCache[str] = KeyCache(bound=2)
    cache.put(b"a", "a", 0.0)
    cache.put(b"b", "b", 0.0)
    cache.get(b"a", 1.0)
    cache.put(b"c", "c", 1.0)
    assert cache.get(b"b", 1.0) == (False, None)
    cache.forget(b"a")
    assert cache.get(b"a", 1.0) == (False, None)
    cache.forget()
    assert len(cache) == 0
