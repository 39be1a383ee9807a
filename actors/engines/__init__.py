"""Engines: what runs a loaded model, behind one protocol."""
