"""What msgspec raises for bytes that are nothing it can read: its own errors, and two that aren't,
for text that is no UTF-8 and for what is nested too deep.

Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
