"""Valkey: the node's own store of limits, under a supervisor."""

from actors.valkey.valkey import Valkey, ValkeyOptions

__all__ = ["Valkey", "ValkeyOptions"]
