"""Logs, bounds and the audit log: declared once, exported elsewhere."""
