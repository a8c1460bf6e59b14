"""What a run hands to the formulas, by value: the first step's loss, gradient and weights, and ``eval_loss``, by hand.

The expected numbers come from the paper's formulas over all ``2B`` slots, one sequence at a time. A setting that is
dropped, halved, late or given to the wrong term changes one of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks import exactness
from torch import Tensor

from odin_rm.data.batching import plan_epoch
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.model.reward_model import RewardModel
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.trainer import RewardTrainer
from odin_rm.workflows.reward.run import build_model
from tests.reward.test_exact_batch import GRADIENT_TOLERANCE

RATE = 1e-3
MAX_STEPS = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokenisedPreferences, TokenisedPreferences]:
    """A backbone, data to train on, and other data that are held out."""
    transformers.logging.set_verbosity_error()
    folder = exactness.save_tiny_llama(tmp_path_factory.mktemp("wiring") / "model")
    return folder, exactness.make_data(), exactness.make_data(seed=5, prompts=10)


def make_trainer(world: Any, **options: Any) -> RewardTrainer:
    """The trainer that a config asks for, heads included; a batch is half of the data."""
    folder, data, held_out = world
    settings: dict[str, Any] = {
        "model": str(folder),
        "batch_pairs": data.num_pairs // 2,
        "max_pairs_per_prompt": exactness.PAIRS,
        "learning_rate": RATE,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "optim": "adamw_torch",
        "batch_layout": "padded",
        "microbatch_tokens": 400,
        "max_steps": MAX_STEPS,
        **options,
    }
    config = RewardConfig(output_dir=str(folder.parent / "run"), **settings)
    torch.manual_seed(1)
    model = build_model(config, str(folder))
    return RewardTrainer(model, config, data, eval_data=held_out, tokenizer=exactness.PadOnly())


def by_hand(
    model: RewardModel, data: TokenisedPreferences, pairs: np.ndarray, options: dict[str, Any]
) -> dict[str, Tensor]:
    """The three terms of the objective, unweighted, on all slots of some pairs."""
    slots = np.concatenate([data.pair_chosen[pairs], data.pair_rejected[pairs]])
    feature = torch.stack(
        [
            model.classifier.model(torch.tensor(data.input_ids(r), dtype=torch.long)[None], use_cache=False)
            .last_hidden_state[0, -1]
            .double()
            for r in slots
        ]
    )
    unit = {}
    for name, vector in model.heads.vectors.items():
        centred = vector.double() - vector.double().mean()
        unit[name] = centred / centred.norm()
    read = unit
    if options.get("normalise_heads") is False or options.get("objective") == "bradley_terry":
        read = {name: vector.double() for name, vector in model.heads.vectors.items()}
    scores = {name: options.get("head_scale", 1.0) * feature @ vector for name, vector in read.items()}
    total = sum(scores.values())
    assert isinstance(total, Tensor)
    half = len(pairs)
    margin = torch.tensor(data.pair_margin[pairs], dtype=torch.float64)
    terms = {"ranking": -torch.nn.functional.logsigmoid(total[:half] - total[half:] - margin).mean()}
    if "length" not in scores:
        return terms | {"length": torch.zeros(()), "orthogonality": torch.zeros(())}
    tokens = torch.tensor(data.response_tokens[slots], dtype=torch.float64)
    prompts = data.response_prompt[slots] if options.get("length_scope") == "prompt" else np.zeros(len(slots))
    quality, length = (_correlation(scores[name], tokens, prompts) for name in ("quality", "length"))
    return terms | {"length": quality.abs() - length, "orthogonality": (unit["quality"] @ unit["length"]).abs()}


def _correlation(score: Tensor, tokens: Tensor, groups: np.ndarray) -> Tensor:
    """Pearson's, of what is left when each group's mean is taken off."""
    score, tokens = score.clone(), tokens.clone()
    for group in np.unique(groups):
        rows = torch.from_numpy(groups == group)
        score = torch.where(rows, score - score[rows].mean(), score)
        tokens = torch.where(rows, tokens - tokens[rows].mean(), tokens)
    return (score @ tokens) / (score.norm() * tokens.norm())


def weighted(terms: dict[str, Tensor], options: dict[str, Any], warmth: float = 1.0) -> Tensor:
    """The objective: the terms with the weights that the options ask for."""
    weights = {name: warmth * options.get(f"{name}_weight", 1.0) for name in ("length", "orthogonality")}
    return terms["ranking"] + sum(weight * terms[name] for name, weight in weights.items())


# What is asked for, and the share of both weights that holds in the first of ten steps.
SETTINGS: dict[str, tuple[dict[str, Any], float]] = {
    "as in the paper": ({}, 1.0),
    "length weight": ({"length_weight": 0.7}, 1.0),
    "orthogonality weight": ({"orthogonality_weight": 0.3}, 1.0),
    "no orthogonality": ({"orthogonality_weight": 0.0}, 1.0),
    "within prompts": ({"length_scope": "prompt"}, 1.0),
    "heads as they are": ({"normalise_heads": False}, 1.0),
    "larger heads": ({"head_scale": 3.0}, 1.0),
    "weights that rise": ({"length_warmup": 0.5}, 0.2),
    "all of it": (
        {"length_weight": 0.7, "orthogonality_weight": 0.3, "length_scope": "prompt", "length_warmup": 0.4},
        0.25,
    ),
    "vanilla arm": ({"objective": "bradley_terry"}, 1.0),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_first_step_and_eval_loss_are_the_objective_that_is_asked_for(world: Any, name: str) -> None:
    options, warmth = SETTINGS[name]
    trainer = make_trainer(world, **options)
    trainer.state.max_steps = MAX_STEPS
    model, pairs = trainer._reward_model(), trainer.batches.plan[0]
    terms = by_hand(model, world[1], pairs, options)
    loss = weighted(terms, options, warmth)
    expected = dict(zip(_names(model), torch.autograd.grad(loss, list(model.parameters())), strict=True))
    held_out = by_hand(model, world[2], np.arange(world[2].num_pairs), options)

    # The weights of the held-out loss do not rise: figures of early and late steps are of one objective.
    assert trainer.evaluate()["eval_loss"] == pytest.approx(weighted(held_out, options).item(), abs=2e-6)
    step_loss = trainer.training_step(trainer.model_wrapped, trainer.batches[0])
    assert step_loss.item() == pytest.approx(loss.item(), abs=2e-6)
    assert exactness.worst(exactness.gradients(model), expected) < GRADIENT_TOLERANCE
    logged = trainer.meter.drain()
    if name != "vanilla arm":  # whose log tells the correlation too, though nothing weighs it
        assert logged["length_loss"] == pytest.approx(terms["length"].item(), abs=2e-6)
    assert logged["ranking_loss"] == pytest.approx(terms["ranking"].item(), abs=2e-6)
    assert logged["orthogonality_loss"] == pytest.approx(terms["orthogonality"].item(), abs=2e-6)


def _names(model: RewardModel) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def test_the_terms_differ_enough_for_a_lost_setting_to_show(world: Any) -> None:
    """Were a term near 0 or alike within and across prompts, the test above could not fail."""
    for data in world[1:]:
        model = make_trainer(world)._reward_model()
        pairs = np.arange(data.num_pairs)
        terms, within = by_hand(model, data, pairs, {}), by_hand(model, data, pairs, {"length_scope": "prompt"})
        assert abs(terms["length"].item()) > 0.01
        assert terms["orthogonality"].item() > 0.01
        assert abs((terms["length"] - within["length"]).item()) > 0.01


def test_weights_rise_from_the_first_step_on(world: Any) -> None:
    """Over four of ten steps: a quarter, a half, three quarters, then all of both weights."""
    trainer = make_trainer(world, length_warmup=0.4, logging_steps=1)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "ranking_loss" in row]
    shares = [(row["loss"] - row["ranking_loss"]) / (row["length_loss"] + row["orthogonality_loss"]) for row in rows]
    assert shares == pytest.approx([0.25, 0.5, 0.75] + 7 * [1.0], abs=1e-3)


def test_the_first_update_has_the_rates_and_the_decay_that_are_asked_for(world: Any) -> None:
    """AdamW's first step moves a weight by its rate towards the gradient's sign, after taking the decay off.

    The decay is for the backbone's matrices: never for norms, and never for a head, whose length means nothing.
    """
    head_rate = 0.05
    trainer = make_trainer(world, weight_decay=0.9, head_learning_rate=head_rate, max_steps=1)
    model = trainer._reward_model()
    names, before = _names(model), [p.detach().clone() for p in model.parameters()]
    loss = weighted(by_hand(model, world[1], trainer.batches.plan[0], {}), {})
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    trainer.train()
    kinds = set()
    for name, old, new, gradient in zip(names, before, model.parameters(), gradients, strict=True):
        is_head = ".vectors." in name
        rate = head_rate if is_head else RATE
        decay = 0.9 if not is_head and old.ndim > 1 else 0.0
        kinds.add((is_head, decay))
        expected = old * (1 - RATE * decay) - rate * gradient / (gradient.abs() + 1e-8)
        # Where the gradient is rounding, so is its sign.
        known = (gradient == 0) | (gradient.abs() > 1e-5)
        assert float(known.float().mean()) > 0.5, name
        torch.testing.assert_close(new.detach()[known], expected[known], rtol=0, atol=2e-6, msg=name)
    assert kinds == {(True, 0.0), (False, 0.0), (False, 0.9)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_pairs": 8}, {"batch_pairs": 8}),
        ({"max_pairs_per_prompt": 1}, {"cap": 1}),
        ({"data_seed": 5}, {"seed": 5}),
        ({"seed": 7}, {"seed": 7}),
    ],
    ids=lambda options: next(iter(options)),
)
def test_batches_are_planned_as_asked(world: Any, options: dict[str, Any], expected: dict[str, int]) -> None:
    data = world[1]
    wanted = {"batch_pairs": data.num_pairs // 2, "cap": exactness.PAIRS, "seed": 42} | expected
    batches = make_trainer(world, **options).batches
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        plan = plan_epoch(data, wanted["batch_pairs"], wanted["cap"], wanted["seed"], epoch)
        assert [pairs.tolist() for pairs in batches.plan] == [pairs.tolist() for pairs in plan]
    assert len(batches) == {"batch_pairs": 12, "cap": 4}.get(next(iter(expected)), 2)
