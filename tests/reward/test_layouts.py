"""Layouts in training: chosen and verified at the start, the same in every loader, and what the log says of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks import exactness

from odin_rm.core.errors import ConfigError
from odin_rm.fast.layout import choose_layout, forward_cost, known_layout, longest_and_first, some_sequences
from odin_rm.model.reward_model import RewardModel
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.loader import PlannedBatches, RankBatch, make_loader
from odin_rm.reward.trainer import RewardTrainer
from tests.model.words import reward_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers.logging.set_verbosity_error()
    folder = tmp_path_factory.mktemp("layouts")
    exactness.save_tiny_llama(folder / "model")
    return folder, exactness.make_data()


def make(world: Any, **options: Any) -> RewardTrainer:
    folder, data = world
    return exactness.make_trainer(folder / "model", data, str(folder), **options)


def same(first: RankBatch, second: RankBatch) -> bool:
    if first.sizes != second.sizes:
        return False
    pairs = list(zip(first.micro_batches, second.micro_batches, strict=True))
    equal = all(torch.equal(a.positions, b.positions) and a.inputs.keys() == b.inputs.keys() for a, b in pairs)
    return (
        equal
        and all(torch.equal(a.inputs[name], b.inputs[name]) for a, b in pairs for name in a.inputs)
        and torch.equal(first.tokens_R, second.tokens_R)
        and np.array_equal(first.batch.rows, second.batch.rows)
    )


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_any_number_of_loader_workers_gives_the_same_batches(world: Any, layout: str) -> None:
    batches = make(world, batch_layout=layout, microbatch_tokens=150).batches
    alone = [batches[i] for i in range(len(batches))]
    assert len(alone) == 2
    assert not same(alone[0], alone[1])
    found = list(make_loader(batches, num_workers=1))
    assert all(same(a, b) for a, b in zip(alone, found, strict=True))


def test_a_batch_travels_as_arrays(world: Any) -> None:
    batch = make(world, batch_layout="tree", microbatch_tokens=150).batches[0]
    again = pickle.loads(pickle.dumps(batch))
    assert same(batch, again)
    assert again.to(CPU).micro_batches[0].inputs["input_ids"].dtype == torch.int64
    assert not any(isinstance(v, torch.Tensor) for v in batch.__getstate__().values())


def test_auto_is_a_tree_where_the_model_allows_it(world: Any) -> None:
    trainer = make(world, batch_layout="auto")
    assert (trainer.layout.layout, trainer.layout.kernel) == ("tree", "segments")
    assert trainer.batches.layout == "tree"
    assert make(world, batch_layout="auto", tree_attention="dense").layout.kernel == "dense"
    assert make(world, batch_layout="packed").batches.layout == "packed"


def test_a_model_that_ignores_the_layout_is_padded_or_refused(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = RewardModel._score_row

    def wrong(self: RewardModel, row: dict[str, torch.Tensor]) -> torch.Tensor:
        return original(self, {**row, "position_ids": row["position_ids"] * 0})

    monkeypatch.setattr(RewardModel, "_score_row", wrong)
    trainer = make(world, batch_layout="auto")
    assert trainer.batches.layout == "padded"
    assert "scores differ" in trainer.layout.why
    for wish in ("tree", "packed"):
        with pytest.raises(ConfigError, match=rf"--batch_layout {wish}: is not possible: .*scores differ.*Use auto"):
            make(world, batch_layout=wish)


def test_an_attention_that_cannot_be_is_one_line(world: Any) -> None:
    with pytest.raises(ConfigError, match=r"varlen.*CUDA"):
        make(world, batch_layout="tree", tree_attention="varlen")
    with pytest.raises(ConfigError, match=r"--tree_attention varlen: is not possible: .*Use auto"):
        make(world, batch_layout="auto", tree_attention="varlen")


def test_an_encoder_is_packed(tmp_path: Path) -> None:
    model = reward_model("bert", tmp_path / "base").eval()
    sequences = [np.array([5, 6, 7, 8]), np.array([5, 6, 9])]
    assert choose_layout(model, sequences, 0, device=CPU).layout == "packed"
    with pytest.raises(ConfigError, match="--batch_layout tree"):
        choose_layout(model, sequences, 0, requested="tree", device=CPU)


def test_a_loaded_model_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = reward_model("llama", tmp_path / "base").eval()
    calls = [0]
    original = RewardModel.forward

    def counted(self: RewardModel, *args: Any, **inputs: Any) -> Any:
        calls[0] += 1
        return original(self, *args, **inputs)

    monkeypatch.setattr(RewardModel, "forward", counted)
    sequences = [np.array([5, 6, 7, 8]), np.array([5, 6, 9])]
    first = known_layout(model, sequences, 0, device=CPU)
    once = calls[0]
    assert known_layout(model, sequences[:1], 0, device=CPU) is first
    assert calls[0] == once > 1
    assert known_layout(model, sequences, 0, requested="packed", device=CPU).layout == "packed"
    assert calls[0] == 2 * once
    assert known_layout(lambda **_: None, sequences, 0, device=CPU).layout == "padded"


def test_figures_of_a_step_by_hand(world: Any) -> None:
    """Against a naive count over the slots and the rows of one step."""
    _, data = world
    for layout in ("tree", "packed", "padded"):
        trainer = make(world, batch_layout=layout, microbatch_tokens=150)
        batch = trainer.batches[0]
        lengths = np.diff(data.offsets)
        pairs = trainer.batches.plan[0]
        slots = sum(int(lengths[data.pair_chosen[p]] + lengths[data.pair_rejected[p]]) for p in pairs)
        responses = sorted({int(r) for p in pairs for r in (data.pair_chosen[p], data.pair_rejected[p])})
        whole = int(lengths[responses].sum())
        computed = sum(m.inputs["input_ids"].numel() for m in batch.micro_batches)
        real = (
            computed if layout != "padded" else sum(int(m.inputs["attention_mask"].sum()) for m in batch.micro_batches)
        )
        assert (batch.sizes.slot_tokens, batch.sizes.response_tokens) == (slots, whole)
        assert (batch.sizes.computed_tokens, batch.sizes.distinct_tokens) == (computed, real)
        trainer.training_step(trainer.model, batch)
        trainer.training_step(trainer.model, trainer.batches[1])
        logged = trainer.meter.drain()
        other = trainer.batches[1].sizes
        assert logged["token_reuse"] == pytest.approx((slots + other.slot_tokens) / (computed + other.computed_tokens))
        padding = 1 - (real + other.distinct_tokens) / (computed + other.computed_tokens)
        assert logged["padding_share"] == pytest.approx(padding)
        assert (padding == 0) == (layout != "padded")
        rates = logged["distinct_tokens_per_second"] / logged["tokens_per_second"]
        assert rates == pytest.approx((real + other.distinct_tokens) / (whole + other.response_tokens))
        assert logged["micro_batches"] == pytest.approx((len(batch.micro_batches) + other.micro_batches) / 2)
        assert 0 < logged["scoring_pass_share"] < 1
        assert logged["scoring_pass_seconds"] > 0


@pytest.mark.parametrize("options", [{"microbatch_tokens": 10**6}, {"single_pass_tokens": 10**6}])
def test_a_step_in_one_pass_has_no_scoring_pass(world: Any, options: dict[str, int]) -> None:
    trainer = make(world, **{"microbatch_tokens": 150, "batch_layout": "tree", **options})
    trainer.training_step(trainer.model, trainer.batches[0])
    logged = trainer.meter.drain()
    assert (logged["scoring_pass_seconds"], logged["scoring_pass_share"]) == (0, 0)


def test_graphs_are_kept_up_to_the_tokens_that_are_computed(world: Any) -> None:
    trainer = make(world, microbatch_tokens=150, batch_layout="tree")
    batch = trainer.batches[0]
    assert batch.sizes.distinct_tokens < batch.sizes.response_tokens
    count = len(batch.micro_batches)
    first = batch.micro_batches[0].inputs["input_ids"].numel()
    assert batch.sizes.round_tokens[0] == batch.sizes.largest == first
    for kept, wanted in (
        (batch.sizes.distinct_tokens, count),
        (batch.sizes.distinct_tokens - 1, count - 1),
        (first, 1),
    ):
        trainer.budget.kept = kept
        assert trainer.engine(trainer.model, batch).retained_graphs == wanted


@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
def test_ranks_cut_the_same_plan_and_idle_ones_run_the_shortest_response(world: Any, layout: str) -> None:
    _, data = world
    options = {"batch_pairs": 3, "max_pairs_per_prompt": 4, "microbatch_tokens": 10**6, "pad_token_id": 0, "seed": 0}
    parts = [PlannedBatches(data, **options, layout=layout, rank=rank, world_size=7)[0] for rank in range(7)]
    assert len({len(part.micro_batches) for part in parts}) == 1
    assert len({part.sizes for part in parts}) == 1
    held = [m for part in parts for m in part.micro_batches]
    assert sorted(torch.cat([m.positions for m in held]).tolist()) == list(range(len(parts[0].tokens_R)))
    idle = [m for m in held if not len(m.positions)]
    assert idle
    lengths = np.diff(data.offsets)[parts[0].batch.responses]
    assert {m.inputs["input_ids"].numel() for m in idle} == {lengths.min()}


def test_sequences_to_look_at(world: Any) -> None:
    _, data = world
    lengths = np.diff(data.offsets)
    assert [len(s) for s in longest_and_first(data)] == [lengths.max(), lengths[0]]
    some = some_sequences(data, 100)
    assert sum(map(len, some)) <= 100 < sum(lengths[: len(some) + 1])
    assert len(some_sequences(data, 1)) == 1
    assert len(some_sequences(data, 10**9)) == data.num_responses


def test_cost_of_a_forward_pass_by_hand(world: Any) -> None:
    """Llama, 2 layers of 32: 4 projections of 32 x 32 and 3 of 32 x 64 in each; two heads of 32 are no matrices."""
    folder, _ = world
    cost = forward_cost(exactness.load_model(folder / "model"))
    assert cost.token == 2 * 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert cost.pair == 4 * 2 * 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"microbatch_tokens": "many"}, "--microbatch_tokens: must be a whole number or auto"),
        ({"microbatch_tokens": "0"}, "--microbatch_tokens"),
        ({"microbatch_tokens": 2.5}, "--microbatch_tokens: must be a whole number or auto"),
        ({"batch_layout": "trees"}, "--batch_layout"),
        ({"tree_attention": "flash"}, "--tree_attention"),
        ({"batch_layout": "padded", "tree_attention": "dense"}, "--tree_attention: has no effect"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        RewardConfig(output_dir=str(tmp_path), **options)


def test_budgets_as_they_are_given(tmp_path: Path) -> None:
    given = {value: RewardConfig(output_dir=str(tmp_path), microbatch_tokens=value) for value in ("auto", "2048", 2048)}
    assert [config.given_tokens for config in given.values()] == [None, 2048, 2048]
    assert RewardConfig(output_dir=str(tmp_path)).given_tokens is None
    # A run may go on under another budget and in another layout.
    changed = {"microbatch_tokens": 5, "single_pass_tokens": 5, "batch_layout": "packed", "tree_attention": "flex"}
    other = RewardConfig(output_dir=str(tmp_path), **changed)
    assert other.trajectory() == given["auto"].trajectory()


def test_a_run_that_goes_on_keeps_torchs_products(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odin_rm.fast.cpu_matmul.faster_by", lambda: 2.0)
    trainer = make(world)
    assert trainer.choose_matmul() == "onednn"
    trainer.saved_budget = {"tokens": 64, "kept": 0, "products": "torch"}
    assert trainer.choose_matmul() == "torch"
    trainer.saved_budget = {"tokens": 64, "kept": 0, "products": "onednn"}
    assert trainer.choose_matmul() == "onednn"
    monkeypatch.setattr("odin_rm.fast.cpu_matmul.faster_by", lambda: 0.0)
    assert trainer.choose_matmul() == "torch"
    assert make(world, cpu_products="torch").choose_matmul() == "torch"
    with pytest.raises(ConfigError, match="--cpu_products"):
        make(world, cpu_products="mkl")
