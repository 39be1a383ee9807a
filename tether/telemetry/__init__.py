"""Metrics and logs: declared once, bound once, exported elsewhere."""

from tether.telemetry import logs, metrics, title

__all__ = ["logs", "metrics", "title"]
