"""Merkle trees as RFC 6962 has them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.merkle import (
    MerkleRoot,
    MerkleStep,
    leaf_hash,
    merkle_path,
    merkle_root,
    node_hash,
    root_by,
)

# The leaves and roots of the tests of certificate-transparency-go (merkle/testdata).
LEAVES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
          "606162636465666768696a6b6c6d6e6f")  # fmt: skip
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def test_the_roots_of_certificate_transparency() -> None:
    hashes = [leaf_hash(bytes.fromhex(leaf)) for leaf in LEAVES]
    for count, root in enumerate(ROOTS, 1):
        assert merkle_root(hashes[:count]).hex() == root
    assert merkle_root([]) == hashlib.sha256().digest()


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(n).encode()) for n in range(count)]


@given(st.integers(1, 300), st.data())
def test_each_path_leads_to_the_root_and_no_other(count: int, data: st.DataObject) -> None:
    hashes = leaves(count)
    number = data.draw(st.integers(0, count - 1))
    path = merkle_path(hashes, number)
    assert len(path) <= max(0, count - 1).bit_length()
    root = merkle_root(hashes)
    assert root_by(hashes[number], path) == root
    other = data.draw(st.integers(0, count - 1).filter(lambda n: n != number or count == 1))
    assert (root_by(hashes[other], path) == root) is (other == number)
    for wrong in range(len(path)):
        side, beside = path[wrong]
        turned = MerkleStep("right" if side == "left" else "left", beside)
        assert root_by(hashes[number], (*path[:wrong], turned, *path[wrong + 1 :])) != root


def test_a_leaf_is_no_node_and_there_is_none_beyond_the_last() -> None:
    one, two = leaves(2)
    assert leaf_hash(one + two) != node_hash(one, two)
    with pytest.raises(IndexError):
        merkle_path([one, two], 2)


def test_a_million_leaves_are_held_in_twenty_hashes() -> None:
    root = MerkleRoot()
    for _ in range((1 << 20) - 1):
        root.add(b"x" * 32)
    assert len(root._peaks) == 20
    assert root.leaves == (1 << 20) - 1
