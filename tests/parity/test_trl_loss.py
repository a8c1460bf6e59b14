"""Our Bradley-Terry training step against TRL's RewardTrainer on the same batch: loss, gradients, then whole steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks import exactness

from odin_rm.data.schema import TokenisedPreferences
from odin_rm.model.reward_model import RewardModel
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.trainer import RewardTrainer
from tests.model.words import build_tokenizer

trl = pytest.importorskip("trl", reason="needs TRL (pip install '.[test]')")
datasets = pytest.importorskip("datasets", reason="needs datasets")

PAIRS = 48
LEARNING_RATE = 1e-3
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Preferences with shared responses and margins; a backbone, and the classifier that starts as our reward model."""
    transformers.logging.set_verbosity_error()
    folder = tmp_path_factory.mktemp("trl")
    exactness.save_tiny_llama(folder / "backbone")
    ours(folder).save_pretrained(folder / "classifier")
    return folder, exactness.make_data(seed=2)


def ours(folder: Path) -> RewardModel:
    torch.manual_seed(1)
    return RewardModel.from_backbone(folder / "backbone", heads=("quality",), normalise_heads=False)


def our_trainer(folder: Path, data: TokenisedPreferences, **options: Any) -> RewardTrainer:
    settings: dict[str, Any] = {
        "objective": "bradley_terry",
        "batch_pairs": PAIRS,
        "max_pairs_per_prompt": 8,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "microbatch_tokens": 256,
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        **options,
    }
    config = RewardConfig(output_dir=str(folder / "ours"), **settings)
    return RewardTrainer(ours(folder), config, data, tokenizer=exactness.PadOnly())


def their_trainer(folder: Path, data: TokenisedPreferences, pairs: np.ndarray, size: int, **options: Any) -> Any:
    columns = {"chosen_ids": data.pair_chosen[pairs], "rejected_ids": data.pair_rejected[pairs]}
    rows: dict[str, list] = {n: [data.input_ids(int(r)).tolist() for r in column] for n, column in columns.items()}
    rows["margin"] = [float(m) for m in data.pair_margin[pairs]]
    settings: dict[str, Any] = {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": PAIRS // size,
        "train_sampling_strategy": "sequential",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **options,
    }
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "classifier", dtype=torch.float32)
    return trl.RewardTrainer(
        model,
        trl.RewardConfig(output_dir=str(folder / "trl"), **settings),
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=build_tokenizer("llama"),
    )


def by_their_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our parameters (or gradients) as the stock classifier names them."""
    named = {n.removeprefix("backbone."): t for n, t in tensors.items()}
    return {
        ("score.weight" if n == "score.vectors.quality" else n): t.reshape(1, -1) if "vectors" in n else t
        for n, t in named.items()
    }


def test_loss_and_gradients_of_one_batch(world: Any) -> None:
    folder, data = world
    mine = our_trainer(folder, data)
    batch = mine.batches[0]
    pairs = mine.batches.plan[0]
    assert len(pairs) == PAIRS
    assert len(batch.micro_batches) > 2
    assert len(batch.tokens_R) < 2 * PAIRS  # some responses are shared, TRL scores them twice
    loss = mine.training_step(mine.model_wrapped, batch)

    theirs = their_trainer(folder, data, pairs, PAIRS)
    inputs = next(iter(theirs.get_train_dataloader()))
    assert inputs["input_ids"].shape[0] == 2 * PAIRS
    theirs.model.train()
    expected = theirs.compute_loss(theirs.model, inputs)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=TOLERANCE)
    found = by_their_names(exactness.gradients(mine._reward_model()))
    assert exactness.worst(found, exactness.gradients(theirs.model)) < TOLERANCE


def test_an_epoch_of_accumulated_steps_gives_the_same_weights(world: Any) -> None:
    """Plain SGD: AdamW would divide rounding errors by themselves where a gradient is nearly zero."""
    folder, data = world
    mine = our_trainer(folder, data, optim="sgd", learning_rate=0.1, num_train_epochs=1)
    plan = mine.batches.plan
    assert [len(pairs) for pairs in plan] == [PAIRS] * 2
    mine.train()
    theirs = their_trainer(folder, data, np.concatenate(plan), 8, optim="sgd", learning_rate=0.1, num_train_epochs=1)
    theirs.train()
    assert mine.state.global_step == theirs.state.global_step == 2
    start = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "classifier", dtype=torch.float32)
    moved = {n: p.detach() - dict(start.named_parameters())[n] for n, p in theirs.model.named_parameters()}
    assert min(float(m.abs().max()) for m in moved.values()) > 1e-5
    found = by_their_names({n: p.detach() for n, p in mine._reward_model().named_parameters()})
    assert exactness.worst(found, {n: p.detach() for n, p in theirs.model.named_parameters()}) < TOLERANCE


def test_the_comparison_can_fail(world: Any) -> None:
    """One pair the other way round is far outside the tolerance."""
    folder, data = world
    mine = our_trainer(folder, data)
    pairs = mine.batches.plan[0]
    loss = mine.training_step(mine.model_wrapped, mine.batches[0])
    theirs = their_trainer(folder, data, pairs, PAIRS)
    inputs = next(iter(theirs.get_train_dataloader()))
    swapped = torch.arange(2 * PAIRS)
    swapped[[0, PAIRS]] = swapped[[PAIRS, 0]]
    inputs = {name: (x[swapped] if len(x) == 2 * PAIRS else x) for name, x in inputs.items()}
    assert float(theirs.compute_loss(theirs.model, inputs)) != pytest.approx(float(loss), rel=100 * TOLERANCE)
