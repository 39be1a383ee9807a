"""The check of a version's weights: they are where they are said to be, signed as they must be."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from actors.artifacts import digest as digests
from actors.artifacts.options import ArtifactOptions
from actors.contracts import ModelCard
from actors.errors import ArtifactRefused
from supervision.errors import BadRequest, Unavailable

VOUCH_S: Final = 40.0


def artifacts_of(card: ModelCard) -> dict[str, str]:
    """The artifacts that it is made of, by its field."""
    named = {field: getattr(card, field) for field in ("source", "adapter")}
    return {field: source for field, source in named.items() if source.startswith(digests.SOURCE)}


async def vouched(artifacts: ArtifactOptions, card: ModelCard) -> None:
    """Returns if the manifests of all artifacts that `card` names are at the replicas, with
    signatures that count. Their blocks are verified by who loads them.

    Raises:
        BadRequest: there are no replicas.
        ArtifactRefused: one is unsigned, signed by nobody who counts, or revoked.
        ArtifactLost: no replica has one whole.
        Unavailable: it took too long.
    """
    for field, named in artifacts_of(card).items():
        if not artifacts.replicas:
            raise BadRequest(
                f"{field}: this node has no replicas; list some in [artifacts] replicas",
                param=field,
            )
        try:
            async with asyncio.timeout(VOUCH_S):
                await _vouched(artifacts, digests.parse(named))
        except TimeoutError:
            raise Unavailable(
                f"the replicas have not shown {named} within {VOUCH_S:g} s; try again"
            ) from None


async def _vouched(artifacts: ArtifactOptions, digest: str) -> None:
    # Imported here: a registry of models without artifacts starts a twentieth of a second sooner.
    from actors.artifacts import source
    from actors.artifacts.replicas import Replicas

    replicas = Replicas.of(artifacts)
    manifest = await replicas.manifest(digest)
    trust = await asyncio.to_thread(source.trust_of, artifacts)
    if trust is None:
        return
    address = digests.address(digest)
    bundles: list[bytes] = []
    async for bundle in replicas.signatures(digest):
        bundles.append(bundle)
        with suppress(ArtifactRefused):
            trust.check(address, manifest, [bundle], source.now())
            return
    trust.check(address, manifest, bundles, source.now())  # says what is wrong with them
