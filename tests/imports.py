"""What some code imports, seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "scipy", "pandas", "matplotlib", "sklearn")


def loaded_by(code: str, heavy: Sequence[str] = HEAVY) -> set[str]:
    """Heavy modules that some code has imported at its end."""
    ending = f"\nimport sys\nprint('HEAVY', *(set({tuple(heavy)!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])
