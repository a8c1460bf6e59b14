"""A reward model as a source: quality only; what a length head says goes to the log and nowhere else."""

from __future__ import annotations

import numpy as np

from odin_rm.core.errors import ConfigError, DataError, RewardSourceError
from odin_rm.data.tokenise import encode_responses
from odin_rm.model.scoring import Scorer, load_scorer, score_encoded, text_settings
from odin_rm.rl.records import JudgedResponses, RewardRequest


class ModelSource:
    """Our reward model or any one-label classifier, by its own tokenizer and chat template, calibrated if it is.

    The texts are those that ``odin_rm.score_texts`` and ``odin-rm score`` would read. A response that the policy did
    not end is read as far as it goes: no ending is written behind it. A longer text than the model's window loses the
    start of its prompt; where the response alone does not fit, the quality is NaN.

    Args:
        scorer: the loaded model; its text settings apply but for the cut.
        microbatch_tokens: padded tokens per forward pass.
    """

    def __init__(self, scorer: Scorer, *, microbatch_tokens: int = 16384) -> None:
        self.scorer = scorer
        self.microbatch_tokens = microbatch_tokens
        self.settings = text_settings(scorer, overlong="truncate_prompt_left")
        self.name = scorer.name
        # Of what it gives: a calibrated reward has another mean and deviation than the model's own.
        known = scorer.info if scorer.dial is None else scorer.dial.calibration
        self.reward_mean = None if known is None else known.reward_mean
        self.reward_std = None if known is None else known.reward_std

    @classmethod
    def load(
        cls,
        path: str,
        *,
        device: str | None,
        microbatch_tokens: int,
        trust_remote_code: bool = False,
        calibration: str | None = None,
    ) -> ModelSource:
        """From a model folder, a reward run's folder or a hub id.

        Raises:
            ModelError: it cannot be loaded.
            ConfigError: it is a classifier with several labels.
        """
        try:
            scorer = load_scorer(path, device=device, trust_remote_code=trust_remote_code, calibration=calibration)
        except ConfigError as error:
            if "labels" not in error.what:
                raise
            fix = "Give a model of one label, or a file.py:function that reads the label you mean."
            raise ConfigError(error.what, where=path, fix=fix) from error
        return cls(scorer, microbatch_tokens=microbatch_tokens)

    def judge(self, request: RewardRequest) -> JudgedResponses:
        """Quality by the quality head, or the classifier's one label.

        Raises:
            RewardSourceError: the chat template refuses a conversation.
        """
        try:
            encoded = encode_responses(
                self.scorer.tokenizer,
                request.prompts,
                request.responses,
                self.settings,
                ended=None if request.ended is None else request.ended.tolist(),
            )
        except DataError as error:
            raise RewardSourceError(f"{error.what} ({error.where})", where=self.name, fix=error.fix) from error
        quality_R, length_R = score_encoded(self.scorer, encoded, microbatch_tokens=self.microbatch_tokens)
        tokens_R = np.array([one.response_tokens for one in encoded], dtype=np.int64)
        return JudgedResponses(quality_R, length_for_log=length_R, tokens=tokens_R)
