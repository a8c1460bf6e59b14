"""Another source, whose quality becomes a probability: that a response is preferred to a reference answer.

``sigmoid(q(response) - q(answer))``, the mean over several answers ("preference as reward", Fu et al. 2025,
2502.18770). It is between 0 and 1 whatever the source, and what is far better than the answer gains little by being
better still.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError
from odin_rm.data.prompts import PromptSet
from odin_rm.rl.records import JudgedResponses, RewardRequest, RewardSource
from odin_rm.rl.shaping import preference_probability


class PreferenceSource:
    """Asks the source for the responses, and once for each reference answer.

    Args:
        source: gives quality rewards.
        column: of the prompts: a text each, or a list of texts.
        tokenizer: the policy's, for sources that read its ids.
    """

    reward_mean: float | None = None
    reward_std: float | None = None

    def __init__(self, source: RewardSource, column: str, *, tokenizer: Any = None) -> None:
        self.source, self.column, self.tokenizer = source, column, tokenizer
        self.name = source.name
        self._known: dict[tuple[str, str], float] = {}

    def judge(self, request: RewardRequest) -> JudgedResponses:
        """Probabilities as quality; the log has the source's quality and the answers' beside them.

        Raises:
            RewardSourceError: the source cannot answer.
            ConfigError: a prompt has no reference answer.
        """
        answers = [answers_of(value, self.column, row) for row, value in enumerate(self._column(request))]
        self._ask(request, answers)
        judged = self.source.judge(request)
        reference, preferred = [], []
        for prompt, own, quality in zip(request.prompts, answers, judged.quality, strict=True):
            known = np.array([self._known[_key(prompt, text)] for text in own])
            reference.append(float(known.mean()))
            preferred.append(float(preference_probability(np.full(len(known), quality), known).mean()))
        columns = {"quality": [float(x) for x in judged.quality], "reference_quality": reference}
        return JudgedResponses(
            np.array(preferred),
            length_for_log=judged.length_for_log,
            tokens=judged.tokens,
            log_columns=judged.log_columns | columns,
            log_metrics=judged.log_metrics,
        )

    def _column(self, request: RewardRequest) -> Sequence[Any]:
        if self.column not in request.columns:
            raise _missing(self.column, "the prompts")
        return request.columns[self.column]

    def _ask(self, request: RewardRequest, answers: list[list[str]]) -> None:
        """Score the answers that are not known yet."""
        new: dict[tuple[str, str], int] = {}
        for row, texts in enumerate(answers):
            for text in texts:
                if _key(request.prompts[row], text) not in self._known:
                    new.setdefault(_key(request.prompts[row], text), row)
        if not new:
            return
        rows, texts = list(new.values()), [text for _, text in new]
        ids = [self._ids(text) for text in texts]
        judged = self.source.judge(
            RewardRequest(
                prompts=[request.prompts[row] for row in rows],
                responses=texts,
                response_ids=ids,
                response_tokens=np.array([max(0, len(one) - 1) for one in ids]),
                columns={name: [values[row] for row in rows] for name, values in request.columns.items()},
                step=request.step,
                ended=np.ones(len(rows), dtype=bool),
            )
        )
        self._known |= dict(zip(new, map(float, judged.quality), strict=True))

    def _ids(self, text: str) -> list[int]:
        if self.tokenizer is None:
            return []
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids if self.tokenizer.eos_token_id is None else [*ids, self.tokenizer.eos_token_id]


def check_reference_answers(prompts: PromptSet, column: str) -> None:
    """Refuse prompts without an answer in a column, before anything is trained.

    Raises:
        ConfigError: the column is not there, or a row of it is empty.
    """
    if column not in prompts.columns:
        raise _missing(column, "the prompts")
    for row, value in enumerate(prompts.columns[column]):
        answers_of(value, column, row)


def answers_of(value: Any, column: str, row: int) -> list[str]:
    """The reference answers of a prompt: a text, the last message of a conversation, or a list of texts.

    Raises:
        ConfigError: there is none.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    if values and all(isinstance(one, dict) for one in values):
        values = [values[-1].get("content")]
    if not values or not all(isinstance(one, str) and one.strip() for one in values):
        what = f"prompt {row + 1} has no answer in the column '{column}'"
        raise ConfigError(what, where="--preference_reference", fix="Give each prompt a text, or a list of texts.")
    return list(values)


def _missing(column: str, where: str) -> ConfigError:
    what = f"{where} have no column '{column}'"
    return ConfigError(what, where="--preference_reference", fix="Name a column that holds an answer to each prompt.")


def _key(prompt: Any, text: str) -> tuple[str, str]:
    return repr(prompt), text
