"""Tether: an AI-inference network made of supervised actors."""

__version__ = "0.1.0"
