"""The command `tether`."""

from tether.cli.app import main

__all__ = ["main"]
