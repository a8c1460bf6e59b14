"""Judges that score each answer by itself: reward models and the testbed's truth. The higher score is preferred.

They see no order, so both orders agree; each distinct answer is scored once.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odin_rm.core.files import dump_json
from odin_rm.core.reading import read_bytes
from odin_rm.evaluation.judgements import Judgement, Question, preference_of
from odin_rm.judging.judge import Judge, Record

if TYPE_CHECKING:
    from odin_rm.model.scoring import Scorer

Score = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""Instructions and answers to one number each, NaN where there is none."""

# The truth lives above this layer, so it is found by name.
_TRUTH = ("odin_rm.testbed.world", "World")


@dataclass(frozen=True)
class RewardModelSettings:
    """How a reward model is loaded and what its scores mean.

    Attributes:
        model: ours, or any sequence classifier: folder or hub id.
        tie_margin: quality differences up to this are ties, reward units.
        column: label to read of a classifier with several.
        max_length: most tokens of a sequence; default the model's own setting.
        microbatch_tokens: padded tokens per forward pass.
        dtype, device, trust_remote_code: of loading it.
        calibration: ``none`` or a calibration.json; default the one beside the model.
    """

    model: str
    tie_margin: float = 0.0
    column: str | None = None
    max_length: int | None = None
    microbatch_tokens: int = 16384
    dtype: str | None = None
    device: str | None = None
    trust_remote_code: bool = False
    calibration: str | None = None


class _ScoreJudge(Judge):
    ask_again = False

    def __init__(self, name: str, tie_margin: float) -> None:
        self.name, self.tie_margin = name, tie_margin

    def scores(self, instructions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        raise NotImplementedError

    def judge(self, questions: Sequence[Question], record: Record) -> None:
        texts = sorted({(q.instruction, answer) for q in questions for answer in (q.first, q.second)})
        values = self.scores([instruction for instruction, _ in texts], [answer for _, answer in texts])
        score = dict(zip(texts, values.tolist(), strict=True))
        for number, question in enumerate(questions):
            first, second = (score[question.instruction, answer] for answer in (question.first, question.second))
            known = first == first and second == second  # NaN is no score
            preference = preference_of(first, second, self.tie_margin) if known else None
            record(number, Judgement(preference, dump_json({"first": first, "second": second})))


class RewardModelJudge(_ScoreJudge):
    """The quality reward of a reward model. An answer that does not fit its window has no preference.

    Args:
        settings: the model.
    """

    def __init__(self, settings: RewardModelSettings) -> None:
        place = Path(settings.model)
        super().__init__(place.parent.name if place.name == "model" else place.name, settings.tie_margin)
        self.settings = settings
        self._scorer: Scorer | None = None

    def identity(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "kind": "reward_model",
            "model": settings.model,
            "state": folder_state(settings.model),
            **{name: getattr(settings, name) for name in ("tie_margin", "column", "max_length", "dtype")},
            **self._calibration(),
        }

    def _calibration(self) -> dict[str, Any]:
        """The calibration in use, by content; nothing where there is none, so that earlier replies stay good."""
        from odin_rm.model.calibrated import calibration_file, model_folder

        path = calibration_file(model_folder(self.settings.model), self.settings.calibration)
        if path is None or not path.is_file():  # loading the model will say what is wrong
            return {}
        return {"calibration": hashlib.sha256(read_bytes(path)).hexdigest()}

    def prepare(self, questions: Sequence[Question]) -> None:
        from odin_rm.model.scoring import load_scorer, text_settings

        settings = self.settings
        scorer = load_scorer(
            settings.model,
            column=settings.column,
            dtype=settings.dtype,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            calibration=settings.calibration,
        )
        scorer.settings = text_settings(scorer, max_length=settings.max_length, overlong="truncate_prompt_left")
        self._scorer = scorer

    def scores(self, instructions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        from odin_rm.data.tokenise import encode_responses
        from odin_rm.model.scoring import check_finite, score_encoded

        assert self._scorer is not None  # prepared
        scorer = self._scorer
        encoded = encode_responses(scorer.tokenizer, instructions, answers, scorer.settings)
        quality_R, _ = score_encoded(scorer, encoded, microbatch_tokens=self.settings.microbatch_tokens)
        fits = np.array([not one.dropped for one in encoded])
        check_finite(quality_R[fits], scorer.name)
        return quality_R


class TruthJudge(_ScoreJudge):
    """The testbed's true quality, which it reads off the text.

    Args:
        tie_margin: differences of true quality up to this are ties.
    """

    def __init__(self, tie_margin: float = 0.0) -> None:
        super().__init__("gold", tie_margin)

    def identity(self) -> dict[str, Any]:
        return {"kind": "gold", "tie_margin": self.tie_margin}

    def prepare(self, questions: Sequence[Question]) -> None:
        pass

    def scores(self, instructions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        world = getattr(importlib.import_module(_TRUTH[0]), _TRUTH[1])()
        return np.array([world.true_quality(*pair) for pair in zip(instructions, answers, strict=True)], dtype=float)


def folder_state(model: str) -> str | None:
    """A digest that changes when a file of the model folder does, so that a model trained anew is asked anew."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return hashlib.sha256(dump_json(state).encode()).hexdigest()
