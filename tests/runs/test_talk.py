"""The one line of all trainers, from the logs that they make."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import PrinterCallback, ProgressCallback

from odin_rm.runs.talk import RunTalk, TalkCallback, figures, talking
from tests.core.test_progress import Clock

REWARD = {"loss": 0.4123, "accuracy": 0.7656, "quality_length_correlation": -0.0213, "pairs_per_second": 1234.5,
          "ranking_loss": 0.4, "learning_rate": 1e-5}  # fmt: skip


@pytest.mark.parametrize(
    ("log", "text"),
    [
        (REWARD, "loss 0.41  acc 0.77  length -0.02"),
        ({"loss": 2.5, "mean_token_accuracy": 0.5, "num_tokens": 100.0}, "loss 2.50  acc 0.50"),
        ({"loss": 0.69, "mean_token_accuracy": 0.1, "rewards/accuracies": 0.625, "rewards/margins": 0.002},
         "loss 0.69  acc 0.62  margin 2.0e-03"),
        ({"mean_quality_reward": -12.34, "mean_response_tokens": 123.4, "kl_to_reference": 3.21, "ended_share": 1.0},
         "quality -12.3  tokens 123  KL 3.21  ended 1.00"),
        ({"loss": float("nan"), "accuracy": None}, ""),
    ],
)  # fmt: skip
def test_figures_of_each_trainer(log: dict, text: str) -> None:
    assert figures(log) == text


def test_a_run_of_ten_minutes_in_the_background(capsys) -> None:
    """Step k ends after k seconds; what was logged of step k is said with step k."""
    clock = Clock()
    talk = RunTalk(600, clock=clock, bar=False)
    for step in range(1, 601):
        clock.now += 1
        talk.log(REWARD | {"loss": 1 - step / 1000})
        talk.step(step)
        if step == 300:
            talk.held_out(step, {"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_pearson": 0.125, "eval_runtime": 3.0})
    talk.close(finished=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 19 + 1 + 1
    assert lines[0] == "step 30/600  loss 0.97  acc 0.77  length -0.02  1.2k pairs/s  9:30 left"
    assert lines[9] == "step 300/600  loss 0.70  acc 0.77  length -0.02  1.2k pairs/s  5:00 left"
    assert lines[10] == "step 300  held out: loss 0.50  acc 0.75  length 0.12"
    assert lines[-1] == "step 600/600  loss 0.40  acc 0.77  length -0.02  1.2k pairs/s  10:00 in all"


def test_speeds_from_counters(capsys) -> None:
    clock = Clock()
    talk = RunTalk(10, clock=clock, bar=False)
    for step, count in ((1, 500), (2, 1500)):
        clock.now += 2
        talk.log({"loss": 1.0, "num_tokens": count})
        talk.step(step)
    talk.close(finished=True)
    assert capsys.readouterr().out == "step 2/10  loss 1.00  500 tokens/s  0:04 in all\n"


def test_the_callback_says_a_step_with_its_own_log(capsys) -> None:
    clock = Clock()
    callback, args = TalkCallback(clock), SimpleNamespace(disable_tqdm=True)
    state = SimpleNamespace(max_steps=3, global_step=0, is_world_process_zero=True)
    callback.on_train_begin(args, state, None)
    for step in (1, 2, 3):
        callback.on_step_begin(args, state, None)
        clock.now += 40
        state.global_step = step
        callback.on_log(args, state, None, {"loss": float(step)})
    callback.on_log(args, state, None, {"eval_loss": 9.0})
    callback.on_log(args, state, None, {"train_runtime": 120.0})
    callback.on_train_end(args, state, None)
    callback.on_train_end(args, state, None)
    assert capsys.readouterr().out.splitlines() == [
        "step 1/3  loss 1.00  1:20 left",
        "step 2/3  loss 2.00  0:40 left",
        "step 3  held out: loss 9.00",
        "step 3/3  loss 3.00  2:00 in all",
    ]


class FakeTrainer:
    def __init__(self) -> None:
        self.callbacks: list = [PrinterCallback, ProgressCallback]

    def remove_callback(self, kind: type) -> None:
        self.callbacks.remove(kind)

    def add_callback(self, callback: object) -> None:
        self.callbacks.append(callback)


def test_the_trainers_own_bars_and_logs_are_taken_away() -> None:
    trainer = FakeTrainer()
    with talking(trainer):
        assert [type(callback) for callback in trainer.callbacks] == [TalkCallback]
