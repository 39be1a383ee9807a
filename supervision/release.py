"""Which release this is; nodes tell each other. Pure."""

VERSION = "0.1.0"
