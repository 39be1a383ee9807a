"""The actor runtime: Thespian on an asyncio transport."""

from supervision.runtime.actor import Actor
from supervision.runtime.address import Address
from supervision.runtime.dispatch import on
from supervision.runtime.endpoint import Endpoint

__all__ = ["Actor", "Address", "Endpoint", "on"]
