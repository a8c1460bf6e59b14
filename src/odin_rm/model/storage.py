"""Where a reward model lies: its folder, its file of heads, the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from odin_rm.core.errors import ModelError
from odin_rm.model.backbone import check_model_folder
from odin_rm.model.info import is_reward_model_folder

HEADS_FILE = "reward_heads.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def local_folder(path: str | Path) -> Path:
    """The folder of a saved reward model; a hub id is downloaded first.

    Raises:
        ModelError: the folder holds something else, or the download failed.
    """
    if is_reward_model_folder(path):
        return Path(path)
    if Path(path).is_dir():
        raise ModelError(
            "the folder is not a reward model saved by odin-rm (no odin_rm.json)",
            where=str(path),
            fix="For another library's reward model use odin-rm audit or score, which load it as a classifier.",
        )
    check_model_folder(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(str(path), ignore_patterns=["*.bin", "*.pt", "*.pth"]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        fix = "Check the path or the id, and the network."
        raise ModelError(f"cannot download the model ({type(error).__name__})", where=str(path), fix=fix) from error


def read_heads(folder: str | Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The raw head vectors by name, ``(D,)`` each.

    Raises:
        ModelError: the file is missing or broken, or holds other heads than ``names``.
    """
    path = Path(folder) / HEADS_FILE
    if not path.is_file():
        raise ModelError("the heads are missing", where=str(path), fix="Copy the whole model folder.")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the heads ({error})", where=str(path), fix="Copy them again.") from error
    if set(tensors) != set(names):
        raise ModelError(f"expected the heads {names}, found {sorted(tensors)}", where=str(path))
    return tensors


def upload_folder(folder: str | Path, repo_id: str, *, private: bool | None = None, **kwargs: Any) -> str:
    """Upload a saved model to the hub; returns the address of the commit."""
    from huggingface_hub import HfApi

    api = HfApi()
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **kwargs))
