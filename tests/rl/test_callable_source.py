"""Python functions as reward sources, as TRL calls them."""

from __future__ import annotations

import asyncio
import math
import textwrap
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import TrainerState

from odin_rm.core.errors import RewardSourceError
from odin_rm.rl.reward_source import load_reward_source
from odin_rm.rl.sources.callable import CallableSource
from tests.rl.sources_kit import CHAT, make_request


def word_count(completions, **kwargs):
    return [float(len(text.split())) for text in completions]


def test_the_arguments_are_those_of_trl():
    seen = {}

    def recorder(prompts, completions, completion_ids, answer, trainer_state, log_extra, log_metric, **rest):
        seen.update(locals())
        return [0.0] * len(prompts)

    columns = {"answer": ["a", "b"], "completion": ["x", "y"], "weight": [1, 2]}
    request = make_request(["Why?", CHAT], ["no", "yes it is"], columns=columns, step=7)
    CallableSource(recorder).judge(request)
    assert seen["prompts"] == ["Why?", CHAT]
    assert seen["completions"] == ["no", [{"role": "assistant", "content": "yes it is"}]]
    assert seen["completion_ids"] == request.response_ids
    assert seen["answer"] == ["a", "b"]
    assert seen["rest"] == {"weight": [1, 2]}  # a column 'completion' is TRL's own and does not travel
    assert seen["trainer_state"].global_step == 7


def test_trl_hands_a_function_the_same_arguments(monkeypatch):
    """The method of TRL's GRPO trainer that calls reward functions, with as little of a trainer as it looks at."""
    from trl.trainer import grpo_trainer

    seen = []

    def recorder(**kwargs):
        seen.append({name: str(value) for name, value in kwargs.items() if not name.startswith("log_")})
        seen.append(set(kwargs))
        return [1.0, 2.0]

    trainer = SimpleNamespace(
        reward_funcs=[recorder],
        reward_processing_classes=[None],
        reward_func_names=["recorder"],
        environments=None,
        accelerator=SimpleNamespace(device="cpu"),
        state=TrainerState(global_step=3),
        _log_completion_extra=lambda *_: None,
        _log_metric=lambda *_: None,
    )
    monkeypatch.setattr(grpo_trainer, "gather", lambda values: values)
    monkeypatch.setattr(grpo_trainer, "profiling_context", lambda *_: nullcontext())
    request = make_request(["Why?", "What?"], ["no", "yes"], columns={"answer": ["a", "b"]}, step=3)
    rows = [{"prompt": p, "answer": a} for p, a in zip(request.prompts, request.columns["answer"], strict=True)]
    theirs = grpo_trainer.GRPOTrainer._calculate_rewards.__wrapped__(
        trainer, rows, request.prompts, request.responses, request.response_ids
    )
    ours = CallableSource(recorder).judge(request).quality
    np.testing.assert_array_equal(theirs[:, 0].numpy(), ours)
    assert seen[:2] == seen[2:]


@pytest.mark.parametrize(
    "answer", [[1, None, 2.5], (1, None, 2.5), np.array([1, math.nan, 2.5]), torch.tensor([1, math.nan, 2.5])]
)
def test_none_is_nan_and_any_list_of_numbers_will_do(answer):
    judged = CallableSource(lambda **_: answer).judge(make_request())
    np.testing.assert_array_equal(judged.quality, [1.0, math.nan, 2.5])
    assert judged.quality.dtype == np.float64


def test_coroutines_are_awaited_on_one_loop_also_where_a_loop_runs_already():
    loops = []

    async def slow(completions, **kwargs):
        loops.append(asyncio.get_running_loop())
        first, *_ = await asyncio.gather(asyncio.sleep(0.001, 3.0), asyncio.sleep(0.001))
        return [first] * len(completions)

    source = CallableSource(slow)

    async def notebook():
        return source.judge(make_request())

    assert source.judge(make_request()).quality.tolist() == [3.0] * 3
    assert asyncio.run(notebook()).quality.tolist() == [3.0] * 3
    assert loops[0] is loops[1]


def test_what_a_function_logs_comes_along():
    def talker(completions, log_extra, log_metric, **kwargs):
        log_extra("words", np.array([1, 2, 3]))
        log_extra("object", [None, object, "x"])
        for value in (1, 2):
            log_metric("odd", value)
        return [0.0] * len(completions)

    judged = CallableSource(talker).judge(make_request())
    assert judged.log_columns == {"words": [1, 2, 3], "object": [None, str(object), "x"]}
    assert judged.log_metrics == {"odd": 1.5}


def raising(**kwargs):
    raise KeyError("no such\nkey")


async def raising_later(**kwargs):
    await asyncio.sleep(0)
    raise ValueError("later")


def logs_too_little(log_extra, **kwargs):
    log_extra("words", [1])


def narrow(completions):
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("function", "why", "cause"),
    [
        (raising, r"raising: the reward function raised KeyError: 'no such\\nkey'", KeyError),
        (raising_later, "raising_later: the reward function raised ValueError: later", ValueError),
        (logs_too_little, "log_extra got 1 values for 3 responses in the column 'words'", ValueError),
        (narrow, r"narrow: the reward function raised TypeError: .*keyword argument.*take \*\*kwargs", TypeError),
        (lambda **_: [1.0], "returned 1 numbers for 3 responses", None),
        (lambda **_: [], "returned 0 numbers for 3 responses", None),
        (lambda **_: 1.0, "returned float, not a list", TypeError),
        (lambda **_: None, "returned NoneType, not a list", TypeError),
        (lambda **_: ["1", 2, 3], "returned '1' for response 1, not a number", TypeError),
        (lambda **_: [1, [2.0], 3], r"returned \[2.0\] for response 2, not a number", TypeError),
        (
            lambda **_: [1, 2, torch.zeros(2)],
            "returned tensor.* for response 3",
            (ValueError, RuntimeError),
        ),
        (lambda **_: [1, 2, 10**400], "for response 3, not a number", OverflowError),
    ],
)
def test_what_is_no_reward_is_told_in_one_line(function, why, cause):
    with pytest.raises(RewardSourceError, match=why) as caught:
        CallableSource(function).judge(make_request())
    assert "\n" not in str(caught.value)
    assert cause is None or isinstance(caught.value.__cause__, cause)


def test_ctrl_c_inside_a_function_is_not_an_error_of_the_source():
    def interrupted(**kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CallableSource(interrupted).judge(make_request())


SCRIPT = """
    from dataclasses import dataclass

    @dataclass
    class Settings:
        scale: float = 2.0

    class Scaled:
        def __call__(self, completions, **kwargs):
            return [Settings().scale * len(text.split()) for text in completions]

    scaled = Scaled()
    NUMBER = 3

    def plain(completions, **kwargs):
        return [1.0 for _ in completions]
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "pay.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def test_functions_come_from_files_and_modules(script):
    scaled, plain = (load_reward_source(f"{script}:{name}") for name in ("scaled", "plain"))
    assert (scaled.name, plain.name) == ("Scaled", "plain")
    assert scaled.judge(make_request()).quality.tolist() == [2.0, 2.0, 8.0]
    assert plain.judge(make_request()).quality.tolist() == [1.0] * 3
    ours = load_reward_source("tests.rl.test_callable_source:word_count")
    assert ours.judge(make_request()).quality.tolist() == [1.0, 1.0, 4.0]
    assert (ours.reward_mean, ours.reward_std) == (None, None)


def test_what_cannot_be_imported_is_told_in_one_line(script):
    broken = script.with_name("broken.py")
    broken.write_text("import nothing_like_this\n")
    for spec, why in {
        f"{script}:missing": "there is no function 'missing'. Known: plain",
        f"{script}:NUMBER": "there is no function 'NUMBER'",
        f"{script.with_name('none.py')}:f": r"cannot be imported \(FileNotFoundError",
        f"{broken}:f": r"cannot be imported \(ModuleNotFoundError: No module named 'nothing_like_this'",
        "nothing_like_this.at_all:f": r"cannot be imported \(ModuleNotFoundError",
    }.items():
        with pytest.raises(RewardSourceError, match=why) as caught:
            load_reward_source(spec)
        assert str(caught.value).startswith(spec)
        assert "\n" not in str(caught.value)
