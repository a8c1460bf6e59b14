"""Which of several processes this is, as torchrun, accelerate and their like say it in the environment."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    """Whether this process speaks for the run: the only one, or the first of several."""
    return os.environ.get("RANK", "0") in ("", "0")
