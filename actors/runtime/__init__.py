"""The actor runtime: Thespian on an asyncio transport."""

from actors.runtime.actor import Actor
from actors.runtime.address import Address
from actors.runtime.endpoint import Endpoint
from actors.runtime.serving import on

__all__ = ["Actor", "Address", "Endpoint", "on"]
