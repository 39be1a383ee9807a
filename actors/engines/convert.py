"""`python -m actors.engines.convert FILE.gguf FOLDER`: GGUF to a Hugging Face folder, float32.

A process of its own, since it takes a gigabyte and imports torch. Says `what<TAB>fraction` on
standard output; ends when nobody reads that any more. Equal to the bit to what transformers
itself loads from the GGUF file, chat template included.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from pathlib import Path

# typical seconds of each stage, for the bar alone
_STAGES = (("reading", 7.0), ("converting", 5.0), ("writing", 2.0))


class _Bar:
    """Time-based progress, twice a second, that never says more than its stage has reached."""

    def __init__(self) -> None:
        self._at = 0
        self._since = time.monotonic()
        threading.Thread(target=self._tick, daemon=True).start()

    def stage(self, at: int) -> None:
        self._at, self._since = at, time.monotonic()
        self._say()

    def _say(self) -> None:
        total = sum(seconds for _, seconds in _STAGES)
        before = sum(seconds for _, seconds in _STAGES[: self._at])
        name, seconds = _STAGES[self._at]
        spent = time.monotonic() - self._since
        fraction = (before + seconds * spent / (spent + seconds / 2)) / total
        try:
            sys.stdout.write(f"{name} the model\t{min(fraction, 0.99):.3f}\n")
            sys.stdout.flush()
        except (BrokenPipeError, ValueError):
            os._exit(3)  # whoever wanted this is gone

    def _tick(self) -> None:
        while True:
            time.sleep(0.5)
            self._say()


def main(gguf: Path, folder: Path) -> None:
    """Convert `gguf` into the existing, empty `folder`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    bar = _Bar()
    bar.stage(0)
    import gguf as library
    import torch
    import transformers

    # transformers parses the file three times over and builds the table of names per module;
    # once is enough, and halves the time
    library.GGUFReader = functools.cache(library.GGUFReader)
    library.get_tensor_name_map = functools.cache(library.get_tensor_name_map)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    bar.stage(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    bar.stage(2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
