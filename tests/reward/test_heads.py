"""Heads on frozen features: the numbers of fine-tuning with a frozen backbone, from a cache that is never stale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks import exactness
from torch import Tensor

from odin_rm.core.errors import ConfigError, NumericalError, ShapeError
from odin_rm.core.types import RewardScores
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.model.reward_model import RewardModel
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.features import features_digest, frozen_features
from odin_rm.reward.frozen import FrozenRewardModel, as_rows
from odin_rm.reward.head_training import train_heads
from odin_rm.reward.trainer import RewardTrainer
from odin_rm.workflows.reward.run import build_model
from odin_rm.workflows.reward.trainers import build_head_trainer

RATE = 3e-2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers.logging.set_verbosity_error()
    return exactness.save_tiny_llama(tmp_path_factory.mktemp("heads") / "model")


@pytest.fixture
def data() -> TokenisedPreferences:
    return exactness.make_data()


def config_of(folder: Path, tmp_path: Path, **options: Any) -> RewardConfig:
    settings: dict[str, Any] = {
        "model": str(folder),
        "batch_pairs": 48,
        "max_pairs_per_prompt": exactness.PAIRS,
        "head_learning_rate": RATE,
        "num_train_epochs": 3,
        "warmup_steps": 0,
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "optim": "adamw_torch",
        "cache_dir": str(tmp_path / "cache"),
        **options,
    }
    return RewardConfig(output_dir=str(tmp_path / "run"), **settings)


def fresh(config: RewardConfig, folder: Path) -> RewardModel:
    torch.manual_seed(config.seed)
    return build_model(config, str(folder))


def fine_tuned(config: RewardConfig, folder: Path, data: TokenisedPreferences) -> dict[str, Tensor]:
    """The heads after training of the whole model, of which only the heads may change."""
    model = fresh(config, folder)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.heads.requires_grad_(True)
    RewardTrainer(model, config, data, tokenizer=exactness.PadOnly()).train()
    return {name: vector.detach().clone() for name, vector in model.heads.vectors.items()}


class Pull(Objective):
    """Reads the features and has a state."""

    reads_feature = True

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings)
        self.multiplier = torch.tensor(0.5, dtype=torch.float64)
        self.pairs = 0

    def begin(self, data: PairColumns) -> None:
        self.pairs = len(data.chosen_B)

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        assert scores.feature is not None
        norm_R = scores.feature.pow(2).sum(1)
        return ranked(scores, batch).plus(self.multiplier * (norm_R * scores.quality).mean() / self.pairs)

    def after_step(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> None:
        self.multiplier = self.multiplier + scores.quality.mean()

    def state_dict(self) -> dict[str, Tensor]:
        return {"multiplier": self.multiplier}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.multiplier = state["multiplier"]


@pytest.mark.parametrize("objective", ["odin", "bradley_terry"])
def test_heads_alone_are_those_of_fine_tuning_with_a_frozen_backbone(
    objective: str, folder: Path, data: TokenisedPreferences, tmp_path: Path
) -> None:
    expected = fine_tuned(config_of(folder, tmp_path, objective=objective), folder, data)
    config = config_of(folder, tmp_path, objective=objective, train="heads")
    model = fresh(config, folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".vectors." not in name}
    trainer = build_head_trainer(config, model, data, tokenizer=exactness.PadOnly())
    trainer.train()
    assert trainer.trained_model() is model
    start = fresh(config, folder)
    for name, vector in model.heads.vectors.items():
        torch.testing.assert_close(vector.detach(), expected[name], rtol=1e-5, atol=1e-6)
        assert (vector - start.heads.vectors[name]).abs().max() > 0.05, "training has moved the heads"
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("objective", ["odin", "pull"])
def test_the_function_without_files_gives_the_weights_of_the_trainer(
    objective: str, folder: Path, data: TokenisedPreferences, tmp_path: Path
) -> None:
    name = "odin" if objective == "odin" else "bradley_terry"
    config = config_of(folder, tmp_path, objective=name, train="heads", data_seed=5)
    model = fresh(config, folder)
    features = frozen_features(model, data, pad_token_id=0, cache_dir=tmp_path / "cache")
    frozen = FrozenRewardModel(model, [features.rows])
    ours = train_heads(
        features.rows,
        data,
        name if objective == "odin" else Pull(),
        start=fresh(config, folder).heads,
        batch_pairs=48,
        max_pairs_per_prompt=exactness.PAIRS,
        epochs=3,
        learning_rate=RATE,
        seed=5,
    )
    from odin_rm.reward.head_training import HeadTrainer

    own = Pull() if objective == "pull" else None
    HeadTrainer(frozen, config, as_rows(data), tokenizer=exactness.PadOnly(), objective=own).train()  # type: ignore[arg-type]
    for head, vector in model.heads.vectors.items():
        torch.testing.assert_close(ours.heads.vectors[head].detach(), vector.detach(), rtol=1e-5, atol=1e-6)
    if own is not None:
        assert own.pairs == data.num_pairs
        torch.testing.assert_close(ours.objective.state_dict()["multiplier"], own.multiplier)
        assert own.multiplier != 0.5


def test_one_full_batch_step_by_hand(data: TokenisedPreferences) -> None:
    """From zero heads the derivative of a difference is ``-sigmoid(margin)``, and the loss ``log(1 + e^margin)``."""
    rng = np.random.default_rng(0)
    feature_RD = rng.normal(size=(data.num_responses, 5)).astype(np.float32)
    from odin_rm.model.heads import RewardHeads

    start = RewardHeads(5, ("quality",), normalise=False)
    start.vectors["quality"].data.zero_()
    seen: list[Tensor] = []
    found = train_heads(
        feature_RD,
        data,
        start=start,
        learning_rate=0.01,
        schedule="constant",
        max_grad_norm=0,
        after_step=lambda step, heads: seen.append(heads.vectors["quality"].grad.clone()),  # type: ignore[union-attr]
    )
    difference_BD = feature_RD[data.pair_chosen] - feature_RD[data.pair_rejected]
    odds_B = np.exp(np.asarray(data.pair_margin, dtype=np.float64))
    np.testing.assert_allclose(
        seen[0].numpy(), -(difference_BD * (odds_B / (1 + odds_B))[:, None]).mean(0), rtol=1e-5, atol=1e-7
    )
    assert found.losses == [pytest.approx(np.log(1 + odds_B).mean())]
    # Adam's first step has the size of the learning rate in each coordinate, against the gradient.
    np.testing.assert_allclose(found.heads.vectors["quality"].detach(), -0.01 * np.sign(seen[0].numpy()), rtol=1e-3)


def test_training_on_some_pairs_is_training_on_a_data_set_of_these_pairs(data: TokenisedPreferences) -> None:
    from odin_rm.data.split import select_pairs

    rng = np.random.default_rng(1)
    feature_RD = rng.normal(size=(data.num_responses, 4)).astype(np.float32)
    some = np.flatnonzero(rng.random(data.num_pairs) < 0.5)
    first = train_heads(feature_RD, data, "odin", pairs=some, epochs=3, batch_pairs=16)
    keep_B = np.isin(np.arange(data.num_pairs), some)
    fewer = select_pairs(as_rows(data), keep_B)
    second = train_heads(feature_RD[fewer.input_ids_flat], fewer, "odin", epochs=3, batch_pairs=16)
    assert first.losses == second.losses
    assert first.scores(feature_RD).quality.shape == (data.num_responses,)
    with pytest.raises(ShapeError, match="features for"):
        train_heads(feature_RD[:-1], data)


@pytest.mark.parametrize("chunk", [7, 4096])
def test_features_are_what_the_heads_read(
    chunk: int, folder: Path, data: TokenisedPreferences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odin_rm.reward.features.CHUNK", chunk)
    torch.manual_seed(0)
    model = RewardModel.from_backbone(folder)
    rows = frozen_features(model, data, pad_token_id=0, cache_dir=tmp_path).rows
    assert isinstance(rows.base, np.memmap)
    assert not model.reads_feature
    for response in (0, 3, data.num_responses - 1):
        ids = torch.as_tensor(data.input_ids(response).astype(np.int64))[None]
        with torch.no_grad():
            expected = model(ids, torch.ones_like(ids)).quality
        ours = torch.as_tensor(rows[response].copy()) @ model.heads.effective("quality").detach()
        torch.testing.assert_close(ours[None], expected, rtol=1e-5, atol=1e-6)


def test_the_cache_is_of_these_weights_these_data_and_this_reading(
    folder: Path, data: TokenisedPreferences, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = RewardModel.from_backbone(folder)
    first = frozen_features(model, data, pad_token_id=0, cache_dir=tmp_path)
    again = frozen_features(model, data, pad_token_id=0, cache_dir=tmp_path)
    assert first.seconds > 0 == again.seconds
    np.testing.assert_array_equal(first.rows, again.rows)
    own = features_digest(model, data)
    model.heads.vectors["quality"].data.add_(1)
    assert features_digest(model, data) == own, "the heads are not read"
    assert features_digest(model, exactness.make_data(seed=3)) != own
    assert features_digest(model, data, "torch.bfloat16") != own
    next(model.classifier.base_model.parameters()).data.view(-1)[0] += 1
    assert features_digest(model, data) != own
    # A file that is damaged is made again.
    (file,) = tmp_path.glob("*/features.npy")
    file.write_bytes(file.read_bytes()[:-8] + b"12345678")
    model = RewardModel.from_backbone(folder)
    mended = frozen_features(model, data, pad_token_id=0, cache_dir=tmp_path)
    assert mended.seconds > 0
    np.testing.assert_array_equal(mended.rows, np.load(tmp_path / mended.digest / "features.npy"))


def test_what_heads_cannot_be_trained_on_is_refused(data: TokenisedPreferences) -> None:
    feature_RD = np.random.default_rng(0).normal(size=(data.num_responses, 4))
    broken_RD = feature_RD.copy()
    broken_RD[[1, 5]] = np.nan
    with pytest.raises(NumericalError, match="2 responses have features that are not finite"):
        train_heads(broken_RD, data)
    with pytest.raises(ShapeError, match="a table"):
        train_heads(feature_RD[:, 0], data)
    for pairs in (np.array([data.num_pairs]), np.array([], dtype=int)):
        with pytest.raises(ShapeError, match="'pairs'"):
            train_heads(feature_RD, data, pairs=pairs)
    for name, number in (("epochs", 0), ("batch_pairs", 0), ("max_pairs_per_prompt", -1)):
        with pytest.raises(ConfigError, match=f"^{name}: is {number}"):
            train_heads(feature_RD, data, **{name: number})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no objective 'matchd'"):
        train_heads(feature_RD, data, "matchd")
