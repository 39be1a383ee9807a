"""API keys, kept for a while."""

from __future__ import annotations

from actors.core.keycache import KeyCache


def test_known_and_unknown_keys_are_remembered_for_a_while() -> None:
    cache: KeyCache[str] = KeyCache(bound=2, present_s=60, absent_s=5)
    assert cache.get(b"a", 0.0) == (False, None)
    cache.put(b"a", "acme", 0.0)
    cache.put(b"b", None, 0.0)
    assert cache.get(b"a", 59.9) == (True, "acme")
    assert cache.get(b"b", 4.9) == (True, None)
    assert cache.get(b"b", 5.0) == (False, None)
    assert cache.get(b"a", 60.0) == (False, None)
    assert cache.familiar(b"a") and not cache.familiar(b"b")


def test_the_key_cache_forgets_the_least_used_and_whatever_it_is_told() -> None:
    cache: KeyCache[str] = KeyCache(bound=2)
    cache.put(b"a", "a", 0.0)
    cache.put(b"b", "b", 0.0)
    cache.get(b"a", 1.0)
    cache.put(b"c", "c", 1.0)
    assert cache.get(b"b", 1.0) == (False, None)
    cache.forget(b"a")
    assert cache.get(b"a", 1.0) == (False, None) and not cache.familiar(b"a")
    cache.forget()
    assert cache.get(b"c", 1.0) == (False, None)
    cache.put(b"c", "c", 1.0)
    assert cache.get(b"c", 1.0) == (True, "c")
    assert len(cache) == 1


def test_made_up_keys_crowd_out_no_good_one() -> None:
    cache: KeyCache[str] = KeyCache(bound=2, absent_bound=3)
    cache.put(b"good", "acme", 0.0)
    for number in range(100):
        cache.put(b"wrong %d" % number, None, 0.0)
    assert cache.get(b"good", 1.0) == (True, "acme")
    assert len(cache) == 4
    assert cache.get(b"wrong 96", 1.0) == (False, None)
    assert cache.get(b"wrong 97", 1.0) == (True, None)


def test_a_key_that_was_good_is_familiar_until_it_is_found_to_be_none() -> None:
    cache: KeyCache[str] = KeyCache()
    cache.put(b"a", "acme", 0.0)
    cache.forget()
    assert cache.get(b"a", 0.0) == (False, None) and cache.familiar(b"a")
    cache.put(b"a", None, 0.0)
    assert cache.get(b"a", 0.0) == (True, None) and not cache.familiar(b"a")
    cache.put(b"a", "acme", 0.0)
    assert cache.get(b"a", 0.0) == (True, "acme") and len(cache) == 1


def test_a_group_is_forgotten_alone_and_stays_familiar() -> None:
    cache: KeyCache[str] = KeyCache(bound=3)
    cache.put(b"a", "acme", 0.0, "acme")
    cache.put(b"b", "acme", 0.0, "acme")
    cache.put(b"c", "other", 0.0, "other")
    cache.forget_group("acme")
    cache.forget_group("nobody")
    assert cache.get(b"a", 0.0) == cache.get(b"b", 0.0) == (False, None)
    assert cache.get(b"c", 0.0) == (True, "other")
    assert cache.familiar(b"a")
    cache.put(b"a", "acme", 0.0, "acme")
    assert cache.get(b"a", 0.0) == (True, "acme")
    for number in range(5):
        cache.put(b"%d" % number, "more", 0.0, "more")
    cache.forget_group("acme")
    assert cache.get(b"4", 0.0) == (True, "more")
