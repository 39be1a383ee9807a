"""The registry: which models there are."""

from actors.registry.registry import Registry, RegistryOptions

__all__ = ["Registry", "RegistryOptions"]
