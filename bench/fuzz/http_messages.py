"""Heads and bodies of HTTP, as a front door takes them from a connection."""

from __future__ import annotations

from bench.fuzz.target import Target
from tests.support.http_inputs import SEEDS, one

GROWTH = 64  # a pipelined request of 27 bytes is answered by some hundred
SLACK = 1 << 20  # of a loop, a connection and its parser, and of a segment that waits its turn

TARGET = Target(name="HTTP", read=one, seeds=SEEDS, growth=GROWTH, slack=SLACK, ours=())
