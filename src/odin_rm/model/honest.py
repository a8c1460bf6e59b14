"""Model folders that say what is not so: the one door through which models, adapters and tokenizers are loaded.

Whatever transformers, peft, tokenizers or Jinja say of a folder is one line here. What they do not say is asked:
whether the files of an index lie in the folder, whether an adapter's weights went into the model, whether the last
layer has as many rows as the config has labels, whether a chat template ends.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from odin_rm.core.errors import DataError, MissingExtraError, ModelError, OdinError
from odin_rm.core.reading import read_json
from odin_rm.core.system import shown_path, system_error

INDEX = "model.safetensors.index.json"
LONGEST_RENDERING = 16 * 2**20
"""Characters that a chat template may make of a conversation of a few words."""
TEMPLATE_SECONDS = 20.0
"""How long it may take for that."""
_LAST_LAYERS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
_LAYER = re.compile(r"([A-Za-z_.]+)\.(\d+)\.")
_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@contextmanager
def loading(path: str | Path, what: str = "model", fix: str = "Give a model folder or a hub id.") -> Iterator[None]:
    """A block that loads a part of a model: whatever is raised becomes one line.

    A config with a number where text should be, or a size of -5, ends in errors of every class.

    Raises:
        ModelError: it cannot be loaded; :class:`MachineError` where a file cannot be read for the machine's fault.
    """
    try:
        yield
    except (OdinError, MissingExtraError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and (machine := system_error(error)) is not None and machine.exit_code == 1:
            raise machine from error
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        if "Padding_idx" in reason:  # torch asserts that a pad id has a row of the embedding
            reason, fix = "its pad_token_id is beyond the embedding", "Correct pad_token_id in config.json."
        raise ModelError(f"cannot load the {what} ({reason})", where=shown_path(path), fix=fix) from error


def check_config_file(folder: Path) -> None:
    """Refuse a ``config.json`` that is no JSON object, or nested without end.

    Raises:
        ModelError: so it is.
    """
    try:
        content = read_json(folder / "config.json")
    except DataError as error:
        fix = "Copy the model folder again."
        raise ModelError(f"config.json {error.what}", where=shown_path(folder), fix=fix) from error
    if not isinstance(content, dict):
        fix = "Copy the model folder again."
        raise ModelError("config.json holds no JSON object", where=shown_path(folder), fix=fix)


def check_index(folder: Path) -> None:
    """Refuse an index whose weights are no safetensors files of the folder itself.

    Raises:
        ModelError: so it is.
    """
    if not (folder / INDEX).is_file():
        return
    try:
        names = sorted({str(name) for name in read_json(folder / INDEX)["weight_map"].values()})
    except (DataError, KeyError, TypeError, AttributeError) as error:
        what, fix = f"{INDEX} cannot be read", "Copy the model folder again."
        raise ModelError(what, where=shown_path(folder), fix=fix) from error
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            what = f"{INDEX} points to '{name[:80]}', which is no safetensors file of this folder"
            raise ModelError(what, where=shown_path(folder), fix="Save the model again with safetensors.")
        if not (folder / name).is_file():
            what = f"the folder has no {name}, which {INDEX} names"
            raise ModelError(what, where=shown_path(folder), fix="Copy the weights beside config.json.")


def check_layers(model: nn.Module, report: Mapping[str, Any], path: str | Path) -> None:
    """Refuse weights with more layers than the config asks for, or with fewer: transformers drops or draws the rest.

    Args:
        model: as it was loaded.
        report: what transformers says of it, with ``unexpected_keys`` and ``missing_keys``.
        path: of the model.

    Raises:
        ModelError: so it is.
    """
    lengths = {name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    for kind in ("unexpected_keys", "missing_keys"):
        for key in sorted(str(key) for key in report[kind]):
            if (match := _LAYER.match(key)) is None:
                continue
            held = next((n for name, n in lengths.items() if f".{name}".endswith(f".{match[1]}")), None)
            if held is None or (kind == "unexpected_keys" and int(match[2]) < held):
                continue
            has = f"have {key}, and its config asks for {held}" if kind == "unexpected_keys" else f"lack {key}"
            what = f"the weights {has} of {match[1]}"
            fix = "Copy the config.json that belongs to the weights."
            raise ModelError(what, where=shown_path(path), fix=fix)


def labels_of_weights(path: str | Path) -> int | None:
    """The rows of the last layer of a classifier's weights, where its config does not say how many labels it has.

    OpenRLHF saves none, and transformers then takes two.

    Returns:
        ``None`` where the config says it, or the weights do not tell.
    """
    folder = Path(path)
    try:
        if {"num_labels", "id2label"} & set(read_json(folder / "config.json")):
            return None
    except (DataError, TypeError):
        return None
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as tensors:
                for name in _LAST_LAYERS:
                    if name in tensors.keys():  # noqa: SIM118 - not a mapping
                        return int(tensors.get_slice(name).get_shape()[0])
        except (SafetensorError, OSError):
            return None
    return None


def check_adapter_loaded(model: Any, peft: Any, file: Path) -> None:
    """Refuse an adapter whose weights are not those that the model has taken.

    Args:
        model: the ``PeftModel`` around the base model.
        peft: the module.
        file: the adapter's weights.

    Raises:
        ModelError: weights of the file fit nothing in the model, or the model's adapter is not in the file.
    """
    with loading(file, "adapter", "Copy the adapter's folder again."), safe_open(file, framework="np") as tensors:
        there = {name for name in tensors.keys() if "lora_" in name}  # noqa: SIM118 - not a mapping
    wanted = {name for name in peft.get_peft_model_state_dict(model) if "lora_" in name}
    strange, missing = sorted(there - wanted), sorted(wanted - there)
    if strange or missing:
        example = f"{strange[0]} fits nothing in it" if strange else f"there is none for {missing[0]}"
        what = f"the adapter's weights are not those of this model ({len(there & wanted)} fit; {example})"
        raise ModelError(what, where=shown_path(file.parent), fix="Give the base model that it was trained on.")


# ---- chat templates --------------------------------------------------------------------------------------------------


class _TooLong(BaseException):
    """Raised into a thread whose template does not end; no ``except Exception`` of Jinja's catches it."""


def check_template(tokenizer: Any, path: str | Path) -> None:
    """Refuse a chat template that takes for ever, or makes megabytes, of a conversation of two letters.

    What a template says against the conversation itself is no fault of its; other checks ask that.

    Raises:
        ModelError: so it is.
    """
    if not getattr(tokenizer, "chat_template", None):
        return
    fix = "Correct chat_template of the tokenizer."
    try:
        text = _in_time(lambda: tokenizer.apply_chat_template(_PROBE, tokenize=False), TEMPLATE_SECONDS)
    except _TooLong as error:
        what = f"the chat template does not end within {TEMPLATE_SECONDS:.0f} seconds"
        raise ModelError(what, where=shown_path(path), fix=fix) from error
    except (MemoryError, OverflowError, RecursionError) as error:
        what = f"the chat template asks for more than there is ({type(error).__name__})"
        raise ModelError(what, where=shown_path(path), fix=fix) from error
    except Exception:  # it refuses this conversation
        return
    if isinstance(text, str) and len(text) > LONGEST_RENDERING:
        what = f"the chat template makes {len(text):,} characters of a conversation of two letters"
        raise ModelError(what, where=shown_path(path), fix=fix)


def _in_time(work: Callable[[], Any], seconds: float) -> Any:
    """What ``work`` returns, or :class:`_TooLong` raised within it."""
    thread, over = ctypes.c_ulong(threading.get_ident()), threading.Event()
    lock = threading.Lock()

    def stop() -> None:
        with lock:
            if not over.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TooLong))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        return work()
    finally:
        with lock:
            over.set()
        timer.cancel()
