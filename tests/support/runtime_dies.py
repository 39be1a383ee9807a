"""A module that ends the process of any actor that imports it; an Admin may."""

import multiprocessing
import os

if multiprocessing.current_process().name.startswith("Actor_"):
    os._exit(3)


class Never:
    """Never made."""
