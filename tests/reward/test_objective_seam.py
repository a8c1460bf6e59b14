"""What an objective may ask for besides one scalar per response: the feature, variants, a state; by value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks import exactness
from torch import Tensor

from odin_rm.core.errors import CheckpointError, ConfigError
from odin_rm.core.types import RewardScores
from odin_rm.data.cache import read_columns, write_columns
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.split import select_pairs, select_prompts
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.exact_batch import MicroBatch, OutOfMemory, exact_backward
from odin_rm.reward.loader import RankBatch
from odin_rm.reward.scoring import as_scored
from odin_rm.reward.trainer import RewardTrainer
from tests.reward.test_exact_batch import GRADIENT_TOLERANCE

KIND = "reversed"


class Greedy(Objective):
    """Asks for everything: features of pairs, variants, and a multiplier as state."""

    reads_feature = True
    variants = (KIND,)

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings)
        self.multiplier = torch.tensor(0.5, dtype=torch.float64)

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        assert scores.feature is not None
        apart = (scores.feature[batch.chosen_B] - scores.feature[batch.rejected_B]).pow(2).sum(1).mean()
        original, variant = batch.variants[KIND].T
        effect = torch.tanh(scores.quality[variant] - scores.quality[original]).mean()
        total = ranked(scores, batch)
        return total.plus(0.3 * apart).plus(self.multiplier * effect, effect=effect)

    def after_step(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> None:
        self.multiplier = self.multiplier + scores.quality.mean()

    def state_dict(self) -> dict[str, Tensor]:
        return {"multiplier": self.multiplier}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.multiplier = state["multiplier"]


def with_variants(data: TokenisedPreferences) -> TokenisedPreferences:
    """The data with a reversed copy of each second response behind the others of its prompt."""
    ids, prompts, tokens, new_number = [], [], [], {}
    rows: list[tuple[int, int | None]] = []
    for prompt in range(data.num_prompts):
        members = np.flatnonzero(data.response_prompt == prompt)
        rows += [(int(r), None) for r in members] + [(int(r), int(r)) for r in members if r % 2 == 0]
    variant = np.full(len(rows), -1, dtype=np.int32)
    for number, (response, copied) in enumerate(rows):
        sequence = data.input_ids(response)
        ids.append(sequence if copied is None else sequence[::-1])
        prompts.append(data.response_prompt[response])
        tokens.append(data.response_tokens[response])
        if copied is None:
            new_number[response] = number
        else:
            variant[new_number[copied]] = number
    return dataclasses.replace(
        data,
        input_ids_flat=np.concatenate(ids).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64),
        response_tokens=np.array(tokens, dtype=np.int32),
        response_prompt=np.array(prompts, dtype=np.int32),
        pair_chosen=np.array([new_number[int(r)] for r in data.pair_chosen], dtype=np.int32),
        pair_rejected=np.array([new_number[int(r)] for r in data.pair_rejected], dtype=np.int32),
        variants={KIND: variant},
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokenisedPreferences]:
    transformers.logging.set_verbosity_error()
    folder = exactness.save_tiny_llama(tmp_path_factory.mktemp("seam") / "model")
    return folder, with_variants(exactness.make_data(prompts=8))


def make_trainer(world: Any, **options: Any) -> RewardTrainer:
    folder, data = world
    settings: dict[str, Any] = {
        "batch_pairs": data.num_pairs // 2,
        "max_pairs_per_prompt": exactness.PAIRS,
        "learning_rate": 1e-3,
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "batch_layout": "padded",
        "microbatch_tokens": 400,
        "objective": "bradley_terry",
        **options,
    }
    config = RewardConfig(output_dir=str(folder.parent / "run"), **settings)
    torch.manual_seed(1)
    from odin_rm.workflows.reward.run import build_model

    model = build_model(config, str(folder))
    return RewardTrainer(model, config, data, eval_data=data, tokenizer=exactness.PadOnly(), objective=Greedy())


def naive(trainer: RewardTrainer, data: TokenisedPreferences, pairs: np.ndarray, multiplier: float) -> Tensor:
    """The objective straight from the hidden states, one sequence at a time."""
    model = trainer._reward_model()

    def feature(response: int) -> Tensor:
        ids = torch.tensor(data.input_ids(int(response)), dtype=torch.long)[None]
        return model.classifier.model(input_ids=ids, use_cache=False).last_hidden_state[0, -1].double()

    vector = model.heads.vectors["quality"].double()
    chosen, rejected = data.pair_chosen[pairs], data.pair_rejected[pairs]
    feature_of = {int(r): feature(r) for r in np.unique(np.concatenate([chosen, rejected]))}
    chosen_BD, rejected_BD = (torch.stack([feature_of[int(r)] for r in side]) for side in (chosen, rejected))
    margin = torch.tensor(data.pair_margin[pairs], dtype=torch.float64)
    loss = -torch.nn.functional.logsigmoid((chosen_BD - rejected_BD) @ vector - margin).mean()
    loss = loss + 0.3 * (chosen_BD - rejected_BD).pow(2).sum(1).mean()
    edited = [(r, int(data.variants[KIND][r])) for r in feature_of if data.variants[KIND][r] >= 0]
    effects = [torch.tanh((feature(v) - feature_of[r]) @ vector) for r, v in edited]
    return loss + multiplier * torch.stack(effects).mean()


@pytest.mark.parametrize(
    "options",
    [{}, {"microbatch_tokens": 60}, {"batch_layout": "tree", "microbatch_tokens": 90}, {"single_pass_tokens": 10**6}],
    ids=["padded", "many micro-batches", "trees", "graphs kept"],
)
def test_the_gradient_of_features_and_variants_is_the_naive_one(world: Any, options: dict[str, Any]) -> None:
    trainer = make_trainer(world, **options)
    model = trainer._reward_model()
    loss = naive(trainer, world[1], trainer.batches.plan[0], 0.5)
    names = [name for name, _ in model.named_parameters()]
    expected = dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    found = trainer.training_step(trainer.model_wrapped, trainer.batches[0])
    assert found.item() == pytest.approx(loss.item(), abs=5e-6)
    assert exactness.worst(exactness.gradients(model), expected) < GRADIENT_TOLERANCE


def test_evaluation_takes_the_same_value_and_leaves_the_state_alone(world: Any) -> None:
    trainer = make_trainer(world)
    data = world[1]
    expected = naive(trainer, data, np.arange(data.num_pairs), 0.5)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(expected.item(), abs=5e-6)
    assert -1 <= found["eval_effect"] <= 1
    assert float(trainer.objective.state_dict()["multiplier"]) == 0.5


def test_the_state_changes_once_a_step_also_where_it_is_taken_again(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(world)
    attempts: list[int] = []
    original = trainer._attempt

    def fails_first(*arguments: Any) -> Any:
        attempts.append(1)
        found = original(*arguments)
        if len(attempts) == 1:
            raise OutOfMemory
        return found

    monkeypatch.setattr(trainer, "_attempt", fails_first)
    seen: list[float] = []
    change = trainer.objective.after_step
    monkeypatch.setattr(
        trainer.objective, "after_step", lambda *a: (seen.append(float(a[0].quality.mean())), change(*a))
    )
    trainer.training_step(trainer.model_wrapped, trainer.batches[0])
    assert len(attempts) == 2
    assert len(seen) == 1
    assert float(trainer.objective.state_dict()["multiplier"]) == pytest.approx(0.5 + seen[0], abs=1e-12)


def test_a_checkpoint_without_the_state_is_refused(world: Any, tmp_path: Path) -> None:
    trainer = make_trainer(world)
    with pytest.raises(CheckpointError, match="objective_state"):
        trainer._load_objective_state(tmp_path)
    trainer._save(str(tmp_path / "checkpoint"))
    trainer.objective.load_state_dict({"multiplier": torch.tensor(7.0, dtype=torch.float64)})
    trainer._load_objective_state(tmp_path / "checkpoint")
    assert float(trainer.objective.state_dict()["multiplier"]) == 0.5


def test_variants_ride_along_and_stand_in_no_figure(world: Any, tmp_path: Path) -> None:
    data = world[1]
    batch = make_trainer(world).batches[0]
    pairs = batch.variants[KIND].numpy()
    for original, variant in batch.batch.responses[pairs]:
        assert data.variants[KIND][original] == variant
    in_pairs = set(batch.chosen_B.tolist()) | set(batch.rejected_B.tolist())
    assert not in_pairs & set(pairs[:, 1].tolist())
    assert len(batch.tokens_R) == len(in_pairs) + len(pairs)

    scored = as_scored(data, {"quality": np.arange(data.num_responses, dtype=float)}, "model")
    assert set(scored.quality) == {float(r) for r in np.concatenate([data.pair_chosen, data.pair_rejected])}
    np.testing.assert_array_equal(scored.quality[scored.chosen], data.pair_chosen)

    write_columns(tmp_path, data)
    again = read_columns(tmp_path)
    assert again is not None
    np.testing.assert_array_equal(again.variants[KIND], data.variants[KIND])
    part = select_prompts(data, np.array([1, 3]))
    one = select_pairs(data, np.arange(data.num_pairs) == 0)
    for smaller in (part, one):
        for number, variant in enumerate(smaller.variants[KIND]):
            if variant >= 0:
                np.testing.assert_array_equal(smaller.input_ids(int(variant)), smaller.input_ids(number)[::-1])
        assert (smaller.variants[KIND] >= 0).any() or smaller is one


def test_a_batch_survives_the_way_from_a_worker(world: Any) -> None:
    import pickle

    batch = make_trainer(world).batches[0]
    again: RankBatch = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.variants[KIND], batch.variants[KIND])
    assert torch.equal(again.attributes["response_tokens"], batch.attributes["response_tokens"])


def test_any_heads_and_a_feature_go_through_the_exact_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    weight = torch.randn(3, 4, dtype=torch.float64, generator=generator).requires_grad_(True)
    mixing = torch.randn(4, 4, dtype=torch.float64, generator=generator).requires_grad_(True)

    def score(rows: Tensor) -> RewardScores:
        feature = x[rows] @ mixing
        columns = (feature @ weight.T).unbind(1)
        return RewardScores(heads=dict(zip(("list", "quality", "flattery"), columns, strict=True)), feature=feature)

    def objective(scores: RewardScores) -> tuple[Tensor, None]:
        assert scores.feature is not None
        product = scores.heads["list"] * scores.quality.var() + scores.heads["flattery"].cumsum(0)
        return product.sum() + (scores.feature.T @ scores.feature).det(), None

    expected = torch.autograd.grad(objective(score(torch.arange(9)))[0], [weight, mixing])
    parts = [
        MicroBatch(rows, rows) for rows in (torch.tensor([3, 1]), torch.tensor([0, 8, 2, 4]), torch.tensor([7, 5, 6]))
    ]
    exact_backward(score, parts, 9, objective)
    for parameter, gradient in zip((weight, mixing), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-12)


def test_scores_are_named_and_can_be_rebuilt_as_engines_do() -> None:
    quality, length = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    scores = RewardScores(quality, length)
    assert list(scores.heads) == ["quality", "length"]
    again = dataclasses.replace(scores, heads={name: column + 1 for name, column in scores.heads.items()})
    assert torch.equal(again.quality, quality + 1)
    assert torch.equal(again.total(), quality + length + 2)
    assert RewardScores(quality).length is None
    with pytest.raises(TypeError, match="quality"):
        RewardScores(heads={"length": length})


def test_options_follow_the_table(tmp_path: Path) -> None:
    def config(**options: Any) -> RewardConfig:
        return RewardConfig(output_dir=str(tmp_path), use_cpu=True, **options)

    odin, plain = config(), config(objective="bradley_terry", length_weight=0.25)
    shared = {
        "length_warmup": 0.0, "length_scope": "batch", "length_measure": "absolute", "length_memory": 0,
        "length_tolerance": None, "prompt_offset_weight": 0.0,
    }  # fmt: skip
    orthogonal = {"orthogonality_weight": 1.0, "orthogonality_of": "heads"}
    assert dataclasses.asdict(odin.objective_settings) == {"length_weight": 1.0, **shared, **orthogonal}
    assert dataclasses.asdict(plain.objective_settings) == {"length_weight": 0.25, **shared}
    assert (odin.heads, odin.normalise_heads) == (("quality", "length"), True)
    assert (plain.heads, plain.normalise_heads) == (("quality",), False)
    assert "orthogonality_weight" not in plain.trajectory()
    config(objective="bradley_terry", orthogonality_weight=0.0)  # it does nothing, and config.yaml of old runs says so
    with pytest.raises(ConfigError, match=r"--orthogonality_weight: needs a length head.*Use --objective odin"):
        config(objective="bradley_terry", orthogonality_weight=0.5)
    assert list(OBJECTIVES)[:2] == ["odin", "bradley_terry"]
