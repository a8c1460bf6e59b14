"""A Python function as a source, in the signature of TRL's ``reward_funcs`` (GRPO, RLOO)."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import sys
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from transformers import TrainerState

from odin_rm.core.errors import RewardSourceError
from odin_rm.data.render import Prompt, Reply
from odin_rm.rl.records import JudgedResponses, RewardRequest

RewardFunction = Callable[..., Any]
# What TRL takes from its data set itself and does not hand on as a column.
_NOT_COLUMNS = ("prompt", "completion", "completion_ids")


class CallableSource:
    """Calls ``function(prompts=, completions=, completion_ids=, <columns>=, trainer_state=, log_extra=, log_metric=)``.

    As in TRL: the completion of a chat prompt is a list of one assistant message, that of a text prompt a text;
    ``completion_ids`` are the policy's, end token included; every further column of the prompt file is a list of one
    value per row; the answer is a list with a number or ``None`` (no reward) per row; a coroutine function is awaited.

    Args:
        function: any callable, so also an object that keeps state.
        name: what to call it; default its ``__name__``.
    """

    reward_mean: float | None = None
    reward_std: float | None = None

    def __init__(self, function: RewardFunction, *, name: str | None = None) -> None:
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self._loop: asyncio.AbstractEventLoop | None = None

    def judge(self, request: RewardRequest) -> JudgedResponses:
        """What the function answers; NaN where it answers ``None``.

        Raises:
            RewardSourceError: it raised (the cause is chained), or did not answer a list of a number per response.
        """
        columns: dict[str, list[Any]] = {}
        metrics: dict[str, list[float]] = defaultdict(list)

        def log_extra(column: str, values: Iterable[Any]) -> None:
            columns[column] = [_plain(value) for value in values]
            if len(columns[column]) != len(request.responses):
                count = f"{len(columns[column])} values for {len(request.responses)} responses"
                raise ValueError(f"log_extra got {count} in the column '{column}'")

        arguments: dict[str, Any] = {n: v for n, v in request.columns.items() if n not in _NOT_COLUMNS}
        arguments |= {
            "prompts": request.prompts,
            "completions": [_completion(p, r) for p, r in zip(request.prompts, request.responses, strict=True)],
            "completion_ids": request.response_ids,
            "trainer_state": TrainerState(global_step=request.step),
            "log_extra": log_extra,
            "log_metric": lambda name, value: metrics[name].append(float(value)),
        }
        try:
            answer = self.function(**arguments)
            if inspect.isawaitable(answer):
                answer = self._wait_for(answer)
        except Exception as error:
            what = f"the reward function raised {type(error).__name__}: {error}"
            fix = "It is called with keywords; take **kwargs." if _is_signature_error(error) else "Mend the function."
            raise RewardSourceError(what, where=self.name, fix=fix) from error
        return JudgedResponses(
            self._numbers(answer, len(request.responses)),
            log_columns=columns,
            log_metrics={name: float(np.mean(values)) for name, values in metrics.items()},
        )

    def _numbers(self, answer: Any, count: int) -> np.ndarray:
        fix = "Return a list with a number, or None, per response."
        try:
            values = list(answer)
        except TypeError as error:
            what = f"the reward function returned {type(answer).__name__}, not a list"
            raise RewardSourceError(what, where=self.name, fix=fix) from error
        if len(values) != count:
            what = f"the reward function returned {len(values)} numbers for {count} responses"
            raise RewardSourceError(what, where=self.name, fix=fix)
        quality_R = np.full(count, np.nan)
        for row, value in enumerate(values):
            if value is None:
                continue
            try:
                if isinstance(value, str):
                    raise TypeError
                quality_R[row] = float(value)
            except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: of a tensor
                what = f"the reward function returned {value!r:.50} for response {row + 1}, not a number"
                raise RewardSourceError(what, where=self.name, fix=fix) from error
        return quality_R

    def _wait_for(self, answer: Awaitable[Any]) -> Any:
        """Run a coroutine on a loop of our own: a notebook's is taken, and clients keep to the loop they began on."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name=f"reward {self.name}", daemon=True).start()

        async def result() -> Any:
            return await answer

        return asyncio.run_coroutine_threadsafe(result(), self._loop).result()


def load_function(place: str, name: str) -> RewardFunction:
    """The function of a module, or of a ``.py`` file.

    Raises:
        RewardSourceError: the module or file cannot be imported, or has no such function.
    """
    where = f"{place}:{name}"
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        what = f"cannot be imported ({type(error).__name__}: {error})"
        fix = "Give file.py:function, or module:function of an installed module."
        raise RewardSourceError(what, where=where, fix=fix) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__]
        what = f"there is no function '{name}'"
        raise RewardSourceError(what, where=where, fix=f"Known: {', '.join(known) or 'none'}.")
    return function


def _load_file(path: Path) -> ModuleType:
    name = f"odin_rm_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _completion(prompt: Prompt, response: str) -> Reply:
    return response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    value = value.item() if isinstance(value, (np.generic, torch.Tensor)) and np.size(value) == 1 else value
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _is_signature_error(error: Exception) -> bool:
    return isinstance(error, TypeError) and "keyword argument" in str(error)
