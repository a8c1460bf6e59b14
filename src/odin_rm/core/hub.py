"""One short question to the hub before a library asks it at length; and the libraries' remarks left out."""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from odin_rm.core.console import VERBOSE, level
from odin_rm.core.errors import OdinError

SECONDS = 10.0


def check_hub(name: str | Path, error: type[OdinError], kind: str, *, file: str = "config.json") -> None:
    """Refuse a name that is no path here, when the hub that may know it cannot be reached.

    The libraries would try five times and say so each time. Names that are cached pass, and so does everything when
    the hub answers, whatever it answers: what is wrong then is for the loader to say.

    Args:
        name: a path or a hub id.
        error: what to raise.
        kind: what was looked for, such as "model folder".
        file: that the loader is going to ask for.

    Raises:
        OdinError: of the class ``error``.
    """
    if Path(name).exists():
        return
    if str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
        raise error(f"there is no such {kind}", where=str(name), fix="Check the path.")
    why = _unreachable(str(name), file)
    if why:
        fix = f"Give the path of a {kind}, or check the id and the network."
        raise error(f"there is no such {kind}, and the hub cannot be asked for it ({why})", where=str(name), fix=fix)


def quiet_hub() -> None:
    """Leave out the hub library's remarks on calls that it makes again; --verbose and HF_HUB_VERBOSITY bring them."""
    _quiet("huggingface_hub", "HF_HUB_VERBOSITY")


def quiet_transformers() -> None:
    """Leave transformers' remarks on its own inner workings out; --verbose and TRANSFORMERS_VERBOSITY bring them."""
    _quiet("transformers", "TRANSFORMERS_VERBOSITY")


def _quiet(library: str, variable: str) -> None:
    """A library that nobody has imported yet is told by its variable: a command need not import it to silence it."""
    if variable not in os.environ and level() < VERBOSE:
        if library in sys.modules:
            importlib.import_module(f"{library}.utils.logging").set_verbosity_error()
        else:
            os.environ[variable] = "error"


@cache
def _unreachable(name: str, file: str) -> str | None:
    """Why the hub cannot be asked, or ``None``."""
    import huggingface_hub as hub
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    try:
        if isinstance(hub.try_to_load_from_cache(name, file), str):
            return None
        url = hub.hf_hub_url(name, file)
    except HFValidationError:
        return "that is no possible name there"
    try:
        options: dict[str, Any] = {"timeout": SECONDS}
        hub.utils.get_session().head(url, **options)
    except OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE is set"
    except Exception as error:  # the client's own errors, of whatever HTTP library the hub's client uses
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None
