"""The actor runtime: Thespian on an asyncio transport."""

from supervision.runtime.actor import Actor
from supervision.runtime.address import Address
from supervision.runtime.endpoint import Endpoint
from supervision.runtime.handlers import on

__all__ = ["Actor", "Address", "Endpoint", "on"]
