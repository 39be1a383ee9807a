"""The gateway: who asks, may they, and the session that keeps their answer."""

from actors.gateway.gateway import Gateway
from actors.gateway.options import GatewayOptions

__all__ = ["Gateway", "GatewayOptions"]
