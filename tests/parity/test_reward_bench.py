"""What the speed benchmarks of reward training count and divide: by hand, and against torch's own counter."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from benchmarks.shared import reward_arms, reward_flops
from benchmarks.shared.relay import Baton, Relay, Turns, run_in_processes
from benchmarks.shared.reward_arms import Arm, StepClock, Unsupported, Work, grouped_by_length, train_ours, tune
from benchmarks.shared.reward_data import generated, one_pair_per_prompt
from benchmarks.shared.reward_flops import ModelSize, Need, distinct_tokens, matrix_peak, need_of
from benchmarks.shared.reward_setup import make_tokenizer, model_config, our_model, save_models, texts_of
from benchmarks.shared.reward_summary import ratio_of, summary_of, table
from torch.utils.flop_counter import FlopCounterMode

from odin_rm.data.batching import plan_epoch

SMALL = transformers.LlamaConfig(
    vocab_size=10,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    num_labels=1,
    pad_token_id=0,
    attn_implementation="eager",
)
# Per layer four matrices of 8 x 8, three of 8 x 12 and two norms of 8; one more norm at the end.
WEIGHTS, NORMS = 2 * (4 * 64 + 3 * 96), 5 * 8


# ---- what a step needs -----------------------------------------------------------------------------------------------


def test_size_of_a_model_by_hand():
    classifier = transformers.LlamaForSequenceClassification(SMALL)
    assert ModelSize.of(classifier) == ModelSize(parameters=WEIGHTS + NORMS, attention=2 * 8)
    wide = transformers.Qwen3Config(
        vocab_size=10, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=6
    )
    shape = SimpleNamespace(
        config=wide, get_input_embeddings=lambda: torch.nn.Embedding(1, 1), base_model=torch.nn.Module()
    )
    assert ModelSize.of(shape).attention == 3 * 2 * 6  # heads may be wider than the hidden size


def test_count_of_operations_against_torchs_own_counter():
    """One sequence of 7 tokens; torch counts all 49 pairs of query and key, and leaves norms and the head apart."""
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(SMALL)
    size, tokens = ModelSize.of(model), 7
    need = Need(tokens, tokens, tokens, tokens * (tokens + 1) // 2)
    with FlopCounterMode(display=False) as forward:
        states = model.base_model(torch.arange(1, 8)[None]).last_hidden_state
    expected = need.scoring_flops(size) - 2 * NORMS * tokens + 4 * size.attention * (tokens**2 - need.visible)
    assert forward.get_total_flops() == expected
    with FlopCounterMode(display=False) as backward:
        states.sum().backward()
    assert backward.get_total_flops() == 2 * expected
    assert need.training_flops(size) == pytest.approx(3 * need.scoring_flops(size))
    assert need.training_flops(size) == 6 * (WEIGHTS + NORMS) * 7 + 12 * 16 * 28


def test_distinct_tokens_by_hand():
    sequences = [np.array(s, dtype=np.int32) for s in ([1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3], [300, 2])]
    # 1 2 3 (1 + 2 + 3 visible), 4 (4), 5 6 (4 + 5), 300 2 (1 + 2).
    assert distinct_tokens(sequences) == (8, 6 + 4 + 9 + 3)
    assert distinct_tokens(sequences[::-1]) == (8, 22)
    assert distinct_tokens([sequences[0]] * 3) == (4, 10)
    # Ids above a byte are ordered as numbers: 257 does not lie between 1 and 1.
    assert distinct_tokens([np.array(s) for s in ([1, 7], [257, 7], [1, 8])]) == (5, 3 + 3 + 2)


def test_need_of_a_step_by_hand():
    data = generated(2, 3, prompt_tokens=5, response_tokens=(2, 2), seed=1)
    pairs = np.flatnonzero(data.pair_chosen < 3)  # three pairs of the first prompt: six slots of seven tokens
    assert need_of(data, pairs) == Need(42, 21, 5 + 3 * 2, 15 + 3 * (6 + 7))
    assert need_of(data, pairs[:1]) == Need(14, 14, 5 + 2 * 2, 15 + 2 * 13)


def test_matrix_peak_divides_by_the_best_time(monkeypatch):
    monkeypatch.setattr(reward_flops, "faster_by", lambda: 0.0)
    ticks = iter([0.0, 4.0, 10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr(reward_flops.time, "perf_counter", lambda: next(ticks))
    assert matrix_peak("cpu", torch.float32, 16, repeats=2) == 2 * 16**3 / 2.0
    # Of two libraries the faster one, here the second at its second attempt.
    monkeypatch.setattr(reward_flops, "faster_by", lambda: 2.0)
    monkeypatch.setattr(reward_flops, "linear", lambda a, b: None)
    ticks = iter([0.0, 4.0, 10.0, 13.0, 20.0, 24.0, 30.0, 31.0])
    assert matrix_peak("cpu", torch.float32, 16, repeats=1) == 2 * 16**3 / 1.0


# ---- figures ---------------------------------------------------------------------------------------------------------


def step(seconds, cpu=1.0, *, pairs=4, positions=100, graph=100, padding=0, peak=8.0):
    figures = {"seconds": seconds, "cpu_seconds": cpu, "pairs": pairs, "peak_mib": peak}
    return figures | {"positions": positions, "differentiated": graph, "padding": padding}


def test_summary_by_hand():
    steps = [step(50.0), step(1.0, 2.0, positions=60, graph=30, padding=15, peak=9.0), step(3.0, 2.0, positions=40)]
    steps[2]["differentiated"] = 20
    needs = [Need(0, 0, 10**6, 0), Need(90, 60, 30, 100), Need(110, 70, 20, 50)]
    size = ModelSize(parameters=1000, attention=10)
    found = summary_of(Arm("a", steps=steps), 1, needs, size, peak=1e5)
    useful = 6 * 1000 * 50 + 12 * 10 * 150
    expected = {
        "steps": 2,
        "pairs_per_second": 8 / 4,
        "pairs_per_cpu_second": 8 / 4,
        "distinct_tokens_per_second": 50 / 4,
        "slot_tokens_per_second": 200 / 4,
        "positions_per_distinct_token": 100 / 50,
        "padding_share": 15 / 100,
        "second_passes": 50 / 100,
        "useful_flops": useful / 4,
        "useful_share_of_peak": useful / 4 / 1e5,
        "computed_share_of_peak": 2 * 1000 * (100 + 2 * 50) / 4 / 1e5,
        "peak_mib": 9.0,
    }
    assert found.pop("seconds_per_step") == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert found == pytest.approx(expected)
    scored = summary_of(Arm("a", steps=steps), 1, needs, size, peak=1e5, scoring=True)
    assert scored["useful_flops"] == pytest.approx(useful / 12)
    nothing = summary_of(Arm("a", steps=steps[:1], error="broke\nTraceback"), 1, needs, size, 1.0)
    assert nothing == {"error": "broke"}
    unknown = [step(1.0, peak=None) for _ in range(2)]
    assert summary_of(Arm("a", steps=unknown), 1, needs, size, 1.0)["peak_mib"] is None


def test_ratio_and_its_interval_by_hand():
    fast = Arm("fast", steps=[step(9.0), step(1.0, 1.0), step(2.0, 4.0)])
    slow = Arm("slow", steps=[step(9.0), step(3.0, 3.0), step(4.0, 4.0), step(99.0)])
    # Of two steps a bootstrap draws one of them twice in a quarter of the cases each: 3 / 1 or 4 / 2.
    assert ratio_of(fast, slow, 1) == {"ratio": 7 / 3, "low": 2.0, "high": 3.0, "median": 2.5, "steps": 2}
    assert ratio_of(fast, slow, 1, "cpu_seconds") == {
        "ratio": 7 / 5,
        "low": 1.0,
        "high": 3.0,
        "median": 2.0,
        "steps": 2,
    }
    # Larger steps that take as much longer are no noise.
    large = Arm("slow", steps=[step(9.0), step(3.0) | {"positions": 30}, step(12.0) | {"positions": 120}])
    even = Arm("fast", steps=[step(9.0), step(2.0), step(2.0)])
    found = ratio_of(even, large, 1)
    assert (found["ratio"], found["low"], found["high"]) == pytest.approx((3.75, 3.75, 3.75))
    assert ratio_of(fast, Arm("none"), 1) is None


def test_table_has_a_line_for_each_arm():
    needs, size = [Need(90, 60, 50, 100)] * 2, ModelSize(1000, 10)
    good = summary_of(Arm("a", steps=[step(1.0), step(2.0, padding=25)]), 1, needs, size, peak=1e6)
    lines = table({"good": good, "bad": {"error": "no memory"}}, {"good": {"ratio": 2.5, "low": 2.0, "high": 3.0}})
    first, second = lines.splitlines()[2:]
    assert first.startswith("| good | 2.00 | 2.50 (2.00 to 3.00) | 2 | 25 | 2.00 | 25.0% | ")
    assert second.startswith("| bad | no memory |")
    assert len({line.count("|") for line in lines.splitlines()}) == 1


# ---- turns -----------------------------------------------------------------------------------------------------------


def test_arms_take_turns_until_the_last_has_ended():
    seen: list[str] = []

    def job(name: str, steps: int):
        def run(baton: Baton) -> None:
            for number in range(steps):
                seen.append(f"{name}{number}")
                baton.hand_over()

        return run

    assert Relay().run({"a": job("a", 1), "b": job("b", 3), "c": job("c", 2)}) == {}
    assert seen == ["a0", "b0", "c0", "b1", "c1", "b2"]


def test_an_arm_that_fails_does_not_disturb_the_others():
    seen: list[int] = []

    def bad(baton: Baton) -> None:
        baton.hand_over()
        raise ValueError("no such kernel")

    def good(baton: Baton) -> None:
        for number in range(3):
            seen.append(number)
            baton.hand_over()

    errors = Relay().run({"bad": bad, "good": good})
    assert seen == [0, 1, 2]
    assert list(errors) == ["bad"]
    assert errors["bad"].startswith("ValueError: no such kernel\n")


def test_after_the_deadline_no_turn_begins():
    errors = Relay(deadline=time.monotonic() - 1).run({"late": lambda baton: None})
    assert errors == {"late": "out of time"}


def take_steps(seen: list[str], baton: Turns, *, file: Path, name: str, steps: int, end: str = "") -> None:
    for number in range(steps):
        with file.open("a", encoding="utf-8") as stream:
            stream.write(f"{name}{number} ")
        seen.append(f"{name}{number}")
        baton.hand_over()
    if end == "error":
        raise ValueError("no such kernel")
    if end == "exit":
        os._exit(3)


def test_processes_take_turns_and_one_that_fails_disturbs_no_other(tmp_path):
    file = tmp_path / "order"
    ends = {"a": (1, ""), "b": (3, ""), "c": (2, "error"), "d": (1, "exit")}
    jobs = {n: (partial(take_steps, file=file, name=n, steps=steps, end=end), []) for n, (steps, end) in ends.items()}
    found = run_in_processes(jobs)
    assert file.read_text().split() == ["a0", "b0", "c0", "d0", "b1", "c1", "b2"]
    assert {n: seen for n, (seen, _) in found.items()} == {
        "a": ["a0"],
        "b": ["b0", "b1", "b2"],
        "c": ["c0", "c1"],
        "d": [],
    }
    assert [found[n][1] for n in "abd"] == ["", "", "its process ended with 3"]
    assert found["c"][1].startswith("ValueError: no such kernel\n")


# ---- data ------------------------------------------------------------------------------------------------------------


def test_generated_data_have_the_shape_that_is_asked_for():
    data = generated(3, 4, prompt_tokens=6, response_tokens=(2, 9), pairs_per_prompt=5, vocabulary=50, seed=3)
    assert (data.num_prompts, data.num_responses, data.num_pairs) == (3, 12, 15)
    assert np.array_equal(data.sequence_tokens, 6 + data.response_tokens)
    assert set(data.response_tokens) <= set(range(2, 10))
    assert data.input_ids_flat.min() >= 3
    assert data.input_ids_flat.max() < 50
    starts = np.stack([data.input_ids(r)[:6] for r in range(12)]).reshape(3, 4, 6)
    assert (starts == starts[:, :1]).all()
    assert len(np.unique(starts[:, 0], axis=0)) == 3
    assert np.array_equal(data.response_prompt[data.pair_chosen], data.response_prompt[data.pair_rejected])
    assert len({*zip(data.pair_chosen.tolist(), data.pair_rejected.tolist(), strict=True)}) == 15
    one = one_pair_per_prompt(data)
    assert data.response_prompt[one.pair_chosen].tolist() == [0, 1, 2]


def test_texts_of_rows_are_all_their_strings():
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2}, {"prompt": "d", "responses": ["e", "f"]}]
    assert [*texts_of(rows)] == ["a", "b", "c", "d", "e", "f"]
    tokenizer = make_tokenizer(rows, 300)
    ids = tokenizer("déjà vu 7")["input_ids"]  # 11 bytes, and nothing in six letters to merge
    assert len(ids) == 11
    assert min(ids) >= 3
    assert len(tokenizer) == 3 + 256


def test_configs_of_both_families_by_hand():
    tokenizer = make_tokenizer([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    llama = model_config(tokenizer, 3, 256, 99, vocabulary=5000)
    assert (llama.num_attention_heads, llama.intermediate_size, llama.vocab_size) == (4, 704, 5000)
    assert (llama.num_hidden_layers, llama.max_position_embeddings, llama.pad_token_id) == (3, 99, 0)
    qwen = model_config(tokenizer, 2, 1024, 99, family="qwen3")
    assert (qwen.num_attention_heads, qwen.num_key_value_heads, qwen.head_dim) == (16, 8, 128)
    assert qwen.vocab_size == len(tokenizer)


def test_sorting_by_length_moves_pairs_between_measured_steps_only():
    data = generated(12, 3, prompt_tokens=2, response_tokens=(1, 200), seed=5)
    plan = plan_epoch(data, 6, 3, 0, 0)
    tokens = np.maximum(data.sequence_tokens[data.pair_chosen], data.sequence_tokens[data.pair_rejected])
    grouped = grouped_by_length(plan, data, 2)
    for before, after in zip(plan[:2], grouped[:2], strict=True):
        assert sorted(before) == sorted(after)
        assert (np.diff(tokens[after]) <= 0).all()
    assert sorted(np.concatenate(plan[2:])) == sorted(np.concatenate(grouped[2:]))
    assert [len(batch) for batch in grouped] == [len(batch) for batch in plan]
    assert tokens[grouped[2]].max() == tokens[np.concatenate(plan[2:])].max()

    def spread(batches):
        return sum(np.ptp(tokens[b]) for b in batches[2:])

    assert spread(grouped) < spread(plan)


# ---- arms ------------------------------------------------------------------------------------------------------------


def no_work(**changes):
    data = generated(4, 2, prompt_tokens=2, response_tokens=(1, 3))
    work = Work(data, [np.arange(4)], SimpleNamespace(pad_token_id=0), backbone=None, classifier=None)
    return replace(work, **changes)


def test_the_clock_counts_what_the_embedding_sees(monkeypatch):
    embedding = torch.nn.Embedding(5, 2)
    arm, turns = Arm("a"), []
    clock = StepClock(
        arm, no_work(plan=[np.arange(4)] * 2), SimpleNamespace(hand_over=lambda: turns.append(len(arm.steps)))
    )
    clock.watch(SimpleNamespace(get_input_embeddings=lambda: embedding))
    clock.on_train_begin(None, None, None)
    with torch.no_grad():
        embedding(torch.tensor([[1, 2, 0], [3, 0, 0]]))
    embedding(input=torch.tensor([[1, 2, 0, 4]]))
    clock.on_step_end(None, None, None)
    (found,) = arm.steps
    assert (found["positions"], found["differentiated"], found["padding"], found["pairs"]) == (10, 4, 4, 4)
    assert turns == [1]
    clock.on_step_end(None, None, None)
    assert arm.steps[1]["positions"] == 0  # the next step starts from nothing


def test_unknown_settings_are_no_arm():
    with pytest.raises(Unsupported, match="no setting colour, shape in this version"):
        train_ours(Arm("a", {"shape": 1, "colour": 2}), no_work(), None)


def test_tuning_takes_the_fastest_candidate_that_runs(monkeypatch):
    seconds = {1: 3.0, 2: 1.0, 4: 2.0}

    def fake(arm: Arm, work: Work, baton: Baton) -> None:
        pairs = arm.settings["pairs"]
        if pairs == 4:
            raise MemoryError("too large")
        for warm in (50.0, seconds[pairs]):
            arm.steps.append(step(warm))
            baton.hand_over()

    monkeypatch.setattr(reward_arms, "train_trl", fake)
    lines: list[str] = []
    assert tune(no_work(), [1, 2, 3, 4], say=lines.append) == (2, {1: 3.0, 2: 1.0})
    assert lines[-1] == "TRL with 4 pairs at a time: MemoryError: too large"
    with pytest.raises(RuntimeError, match="no candidate divides a step"):
        tune(no_work(), [3], say=lines.append)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    transformers.logging.set_verbosity_error()
    folder = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    data = generated(8, 3, prompt_tokens=16, response_tokens=(3, 12), vocabulary=500, seed=2)
    backbone, classifier = save_models(folder, tokenizer, 1, 64, 32, vocabulary=500)
    plan = [batch for batch in plan_epoch(data, 8, 3, 0, 0) if len(batch) == 8][:2]
    return Work(data, plan, tokenizer, backbone, classifier)


def test_both_sides_start_from_the_same_scores(real):
    ids = torch.as_tensor(np.asarray(real.data.input_ids(0)), dtype=torch.int64)[None]
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(real.classifier)
    with torch.no_grad():
        theirs = classifier.eval()(ids).logits[0, 0]
        ours = our_model(real.backbone, "bradley_terry").eval()(input_ids=ids, attention_mask=ids * 0 + 1).quality[0]
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)
    assert abs(float(theirs)) > 1e-4


def test_both_trainers_have_the_same_losses_and_compute_what_is_counted(real):
    pytest.importorskip("trl", reason="needs TRL (pip install '.[test]')")
    ours = Arm("ours", {"microbatch_tokens": 4096, "batch_layout": "tree"})
    theirs = Arm("theirs", {"pairs": 4})
    errors = Relay().run(
        {"ours": lambda b: train_ours(ours, real, b), "theirs": lambda b: reward_arms.train_trl(theirs, real, b)}
    )
    assert errors == {}
    # TRL adds the means of two micro-batches of four pairs; accumulated, they are halved.
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-4)
    for number, pairs in enumerate(real.plan):
        need = need_of(real.data, pairs)
        assert ours.steps[number]["positions"] == ours.steps[number]["differentiated"] == need.tokens
        assert theirs.steps[number]["positions"] - theirs.steps[number]["padding"] == need.slot_tokens
        assert ours.steps[number]["padding"] == 0 < theirs.steps[number]["padding"]
    loss, scores, gradient = reward_arms.step_figures(real, {"microbatch_tokens": 64})
    assert loss == pytest.approx(ours.losses[0], abs=1e-5)
    assert len(scores) == len(
        np.unique(np.r_[real.data.pair_chosen[real.plan[0]], real.data.pair_rejected[real.plan[0]]])
    )
    assert float(gradient.norm()) > 0
