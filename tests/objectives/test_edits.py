"""Edits in training: hand values of the constraint, state, the data behind it, and a run that holds a tolerance."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks import exactness
from torch import Tensor

from odin_rm.core.errors import ConfigError
from odin_rm.core.files import read_rows
from odin_rm.core.types import RewardScores
from odin_rm.data.load import load_preferences
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.objectives.matched import Matched
from odin_rm.objectives.objective import COMPLETE, PairColumns, Progress
from odin_rm.objectives.registry import MatchedSettings
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.head_training import train_heads
from odin_rm.workflows.reward.edits import edits_of_objective
from tests.reward.test_exact_batch import GRADIENT_TOLERANCE
from tests.reward.test_objective_seam import with_variants

STEP = Progress(1, 10)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# One pair of equal length, and copies of both: a longer one of the first, a formatted one of each.
BATCH = PairColumns(
    {"response_tokens": double(8, 8, 12, 8, 8)},
    torch.tensor([0, 0, 0, 0, 0]),
    torch.tensor([0]),
    torch.tensor([1]),
    double(0),
    {"filler": torch.tensor([[0, 2]]), "bold": torch.tensor([[0, 3], [1, 4]])},
)
SCORES = RewardScores(heads={"quality": double(1.0, 0.5, 1.6, 0.8, 0.4)})


def begun(**options: Any) -> Matched:
    found = Matched(MatchedSettings(edits="filler,bold", match_curve="none", **options))
    data = dataclasses.replace(BATCH, chosen_B=torch.tensor([0, 0]), rejected_B=torch.tensor([1, 1]), margin_B=double(0, 0))
    found.begin(data)
    return found


def test_the_constraint_by_hand() -> None:
    found = begun(edit_scale=2.0, edit_tolerance=0.1, edit_penalty=3.0)
    filler, bold = math.tanh(0.3), (math.tanh(-0.1) + math.tanh(-0.05)) / 2
    value = found.value(SCORES, BATCH, STEP)
    ranking = math.log1p(math.exp(-0.5))
    penalty = (3 * (filler - 0.1)) ** 2 / 6  # bold stays within its tolerance
    assert abs(bold) < 0.1 < filler
    assert float(value.total) == pytest.approx(ranking + penalty, abs=1e-14)
    assert float(value.metrics["edit_filler"]) == pytest.approx(filler, abs=1e-15)
    assert float(value.metrics["edit_bold"]) == pytest.approx(bold, abs=1e-15)
    found.after_step(SCORES, BATCH, STEP)
    multiplier = 0.1 * 3 * (filler - 0.1)
    pushed = multiplier + 3 * (filler - 0.1)
    value = found.value(SCORES, BATCH, STEP)
    assert float(value.total) == pytest.approx(ranking + (pushed**2 - multiplier**2) / 6, abs=1e-14)
    assert value.metrics["tolerance_met"] == 0.5
    held_out = found.value(RewardScores(heads={"quality": double(1, 0.5, 1, 1, 0.5)}), BATCH, COMPLETE)
    assert held_out.metrics["tolerance_met"] == 1.0


def test_the_multipliers_go_on_where_they_were() -> None:
    first, second = begun(), begun()
    first.after_step(SCORES, BATCH, STEP)
    assert set(first.state_dict()) == set(second.state_dict())
    second.load_state_dict(first.state_dict())
    totals = [float(one.value(SCORES, BATCH, STEP).total) for one in (first, second)]
    assert totals[0] == totals[1] != float(begun().value(SCORES, BATCH, STEP).total)


def test_bad_names_are_one_line(tmp_path: Path) -> None:
    def config(edits: str) -> RewardConfig:
        return RewardConfig(output_dir=str(tmp_path), objective="matched", edits=edits, use_cpu=True)

    for text in ("add_bold,,add_emoji", "add_bold,add_bold"):
        with pytest.raises(ConfigError, match="--edits"):
            Matched(MatchedSettings(edits=text))
    with pytest.raises(ConfigError, match="there is no edit 'truncate_half' that should change no reward"):
        edits_of_objective(config("truncate_half"))
    assert list(edits_of_objective(config("add_bold, append_closing"))) == ["add_bold", "append_closing"]
    nothing = dataclasses.replace(BATCH, variants={"filler": torch.zeros(0, 2, dtype=torch.int64)})
    with pytest.raises(ConfigError, match="no training response can be edited by 'filler'"):
        Matched(MatchedSettings(edits="filler", match_curve="none")).begin(nothing)


# ---- the data --------------------------------------------------------------------------------------------------------

ROWS = [
    {"prompt": "q one", "chosen": "a b c", "rejected": "d e"},
    {"prompt": "q one", "chosen": "a b c", "rejected": "b"},
    {"prompt": "q two", "chosen": "a b c", "rejected": "e"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "q", "one", "two", "a", "b", "c", "d", "e", "more"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def texts_of(data: TokenisedPreferences, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(data.input_ids(r), skip_special_tokens=True) for r in range(data.num_responses)]


def test_variants_stand_with_their_prompt_and_in_no_pair(tokenizer: Any, tmp_path: Path) -> None:
    makers = {"more": lambda reply: f"{reply} more", "short": lambda reply: "b" if len(reply) > 3 else None}
    plain = load_preferences(ROWS, tokenizer, EncodingSettings(read_at="end"))
    data = load_preferences(ROWS, tokenizer, EncodingSettings(read_at="end"), variants=makers, cache_dir=tmp_path)
    again = load_preferences(ROWS, tokenizer, EncodingSettings(read_at="end"), variants=makers, cache_dir=tmp_path)
    texts = texts_of(data, tokenizer)
    for found in (data, again):
        assert texts_of(found, tokenizer) == texts
        pairs = [(texts[c], texts[r]) for c, r in zip(found.pair_chosen, found.pair_rejected, strict=True)]
        assert pairs == [
            ("q one a b c", "q one d e"),
            ("q one a b c", "q one b"),
            ("q two a b c", "q two e"),
        ]
        beside = {kind: {texts[r]: texts[v] for r, v in enumerate(column) if v >= 0} for kind, column in found.variants.items()}
        assert beside["more"] == {text: f"{text} more" for text in ("q one a b c", "q one d e", "q one b", "q two a b c", "q two e")}
        assert beside["short"] == {"q one a b c": "q one b", "q two a b c": "q two b"}
        assert (np.diff(found.response_prompt) >= 0).all()
    # What is said of the data is said of the responses in pairs.
    same = ("responses", "mean_response_tokens", "pairs", "prompts", "duplicate_pairs", "longer_chosen_share")
    assert {name: data.report[name] for name in same} == {name: plain.report[name] for name in same}
    assert data.report["variants"] == {"more": 5, "short": 2}


def test_variants_that_do_not_fit_or_are_cut_alike_are_left_out(tokenizer: Any) -> None:
    settings = EncodingSettings(max_length=7, overlong="drop", read_at="end")
    data = load_preferences(ROWS, tokenizer, settings, variants={"more": lambda reply: f"{reply} more"})
    texts = texts_of(data, tokenizer)
    assert {texts[r] for r in np.flatnonzero(np.asarray(data.variants["more"]) >= 0)} == {"q one d e", "q one b", "q two e"}
    cut = EncodingSettings(max_length=7, overlong="truncate_response", read_at="end")
    data = load_preferences(ROWS, tokenizer, cut, variants={"more": lambda reply: f"{reply} more"})
    texts = texts_of(data, tokenizer)
    assert {texts[r] for r in np.flatnonzero(np.asarray(data.variants["more"]) >= 0)} == {"q one d e", "q one b", "q two e"}


# ---- gradients and a run ---------------------------------------------------------------------------------------------


def test_every_split_gives_the_gradient_of_responses_alone(tmp_path: Path) -> None:
    transformers.logging.set_verbosity_error()
    folder = exactness.save_tiny_llama(tmp_path / "model")
    data = with_variants(exactness.make_data(prompts=8))
    options: dict[str, Any] = {"objective": "matched", "edits": "reversed", "edit_tolerance": 0.01, "max_steps": 10}

    def trainer(**changes: Any) -> Any:
        made = exactness.make_trainer(folder, data, str(tmp_path / "run"), **options, **changes)
        batch = made.batches[1]
        heads = {"quality": torch.linspace(-1, 1, len(batch.tokens_R), dtype=torch.float64)}
        made.objective.after_step(RewardScores(heads=heads), batch, STEP)
        return made

    probe = trainer()
    assert probe.objective.tolerances.multipliers()["edit_reversed"] != 0
    exactness.value_alone(probe).backward()
    expected = exactness.gradients(probe._reward_model())
    lengths = np.asarray(data.sequence_tokens)[probe.batches[0].batch.responses]
    for changes in (
        {"microbatch_tokens": int(lengths.max() * len(lengths))},
        {"microbatch_tokens": exactness.budget_for(lengths, 4), "batch_layout": "tree"},
    ):
        assert exactness.worst(exactness.step_gradients(trainer(**changes)), expected) < GRADIENT_TOLERANCE


def test_a_tolerance_of_an_edit_is_held_where_the_plain_objective_breaks_it() -> None:
    """Features (content, shine); labels pay for both, and the edit adds shine."""
    generator = np.random.default_rng(0)
    prompts = 300
    feature = generator.normal(size=(2 * prompts, 2))
    utility = feature @ np.array([1.0, 1.0]) + generator.logistic(size=2 * prompts) / 2
    first = np.arange(prompts) * 3
    left, right = utility[::2], utility[1::2]
    rows = np.concatenate([np.stack([feature[2 * p], feature[2 * p + 1], feature[2 * p] + [0, 1]]) for p in range(prompts)])
    variant = np.full(3 * prompts, -1, dtype=np.int32)
    variant[first] = first + 2
    data = TokenisedPreferences(
        input_ids_flat=np.arange(3 * prompts, dtype=np.int32),
        offsets=np.arange(3 * prompts + 1, dtype=np.int64),
        response_tokens=np.full(3 * prompts, 20, dtype=np.int32),
        response_prompt=np.repeat(np.arange(prompts), 3).astype(np.int32),
        pair_chosen=np.where(left > right, first, first + 1).astype(np.int32),
        pair_rejected=np.where(left > right, first + 1, first).astype(np.int32),
        pair_margin=np.zeros(prompts, dtype=np.float32),
        pair_row=np.arange(1, prompts + 1),
        variants={"shine": variant},
    )
    effects = {}
    for edits in (None, "shine"):
        settings = MatchedSettings(edits=edits, match_curve="none", edit_tolerance=0.05)
        trained = train_heads(rows, data, "matched", settings=settings, batch_pairs=60, epochs=40, learning_rate=0.03)
        quality = trained.scores(rows).quality.numpy()
        effects[edits] = float(np.tanh(quality[first + 2] - quality[first]).mean())
        if edits:
            assert trained.metrics["tolerance_met"] == 1.0
    assert effects[None] > 0.5
    assert abs(effects["shine"]) < 0.06
