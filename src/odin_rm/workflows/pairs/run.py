"""From scored responses to preferences: the best and the worst response to each prompt.

Best against worst of n is what DPO users make of a reward model's scores. Of equal scores the response that came first
counts, so the same file gives the same pairs. Only the two ends of each prompt are held in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from odin_rm.core.errors import DataError, OutputError, RowError
from odin_rm.core.files import RowWriter, read_rows
from odin_rm.core.rows import row_format
from odin_rm.core.system import is_there
from odin_rm.workflows.pairs.config import PairsConfig


@dataclass
class PairsReport:
    """What was made of the scores.

    Attributes:
        responses: that have a score.
        unscored: that have none (a ``null``, for one that did not fit the model's window).
        bad_rows: unusable rows that were left out.
        prompts: different ones.
        single: prompts with one scored response.
        close: prompts whose best and worst differ by no more than the margin.
        pairs: rows written.
    """

    responses: int = 0
    unscored: int = 0
    bad_rows: int = 0
    prompts: int = 0
    single: int = 0
    close: int = 0
    pairs: int = 0


@dataclass
class Ends:
    """The best and the worst response to a prompt so far, each with its score.

    Attributes:
        prompt: as the file has it.
        best, worst: response and score.
        count: scored responses.
    """

    prompt: Any
    best: tuple[Any, float]
    worst: tuple[Any, float]
    count: int = field(default=1)

    def add(self, response: Any, score: float) -> None:
        """One more response; an equal score changes nothing."""
        self.count += 1
        if score > self.best[1]:
            self.best = (response, score)
        if score < self.worst[1]:
            self.worst = (response, score)


def run_pairs(config: PairsConfig) -> PairsReport:
    """Make the pairs of a file.

    Args:
        config: the settings.

    Returns:
        The counts.

    Raises:
        DataError: an unusable row or file, or no pair at all.
        OutputError: the output exists already.
    """
    row_format(config.output)
    if is_there(config.output) and not config.overwrite_output:
        fix = "Choose another one, or pass --overwrite to replace it."
        raise OutputError("the output file exists already", where=config.output, fix=fix)
    report = PairsReport()
    ends = collect_ends(config, report)
    report.prompts = len(ends)
    rows = list(pair_rows(ends, config.min_margin, report))
    if not rows:
        what = f"no prompt has two responses whose scores differ by more than {config.min_margin:g}"
        raise DataError(what, where=config.input, fix="Score several responses to each prompt, or lower --min_margin.")
    with RowWriter(config.output) as writer:
        for row in rows:
            writer.write(row)
    return report


def collect_ends(config: PairsConfig, report: PairsReport) -> dict[str, Ends]:
    """Best and worst of each prompt, prompts in order of appearance.

    Raises:
        DataError: an unusable row, unless it may be left out.
    """
    ends: dict[str, Ends] = {}

    def skip(error: RowError) -> None:
        report.bad_rows += 1

    lenient = config.on_bad_row == "skip"
    for number, row in read_rows(config.input, skip if lenient else None):
        try:
            scored = list(scored_responses(row, config))
        except RowError as error:
            if not lenient:
                raise RowError(error.what, where=f"{config.input}, row {number}", fix=error.fix) from error
            report.bad_rows += 1
            continue
        for prompt, response, score in scored:
            if score is None:
                report.unscored += 1
                continue
            report.responses += 1
            key = json.dumps(prompt, ensure_ascii=False, sort_keys=True, default=str)
            if key in ends:
                ends[key].add(response, score)
            else:
                ends[key] = Ends(prompt, (response, score), (response, score))
    return ends


def scored_responses(row: Mapping[str, Any], config: PairsConfig) -> Iterator[tuple[Any, Any, float | None]]:
    """``(prompt, response, score)`` of a row of either form; the score is ``None`` where it is null.

    Raises:
        RowError: a field is missing, or a score is no finite number.
    """
    prompt = row.get(config.prompt_field)
    if prompt is None:
        raise RowError(f"field '{config.prompt_field}' is missing", fix="Name it with --prompt_field.")
    if row.get(config.response_field) is not None:
        if config.score_field not in row:
            raise RowError(f"field '{config.score_field}' is missing", fix="Run odin-rm score, or pass --score_field.")
        yield prompt, row[config.response_field], _score(row[config.score_field], config.score_field)
        return
    responses, scores = row.get(config.responses_field), row.get(config.scores_field)
    if responses is None or scores is None:
        what = f"there is no '{config.response_field}', and no '{config.responses_field}' with '{config.scores_field}'"
        raise RowError(what, fix="Name the fields with --response_field and --score_field.")
    lists = [_as_list(value) for value in (responses, scores)]
    if any(one is None for one in lists) or len(lists[0] or ()) != len(lists[1] or ()):
        what = f"'{config.responses_field}' and '{config.scores_field}' are no lists of one length"
        raise RowError(what, fix="Give a score for each response.")
    for response, score in zip(lists[0] or (), lists[1] or (), strict=True):
        yield prompt, response, _score(score, config.scores_field)


def pair_rows(ends: Mapping[str, Ends], min_margin: float, report: PairsReport) -> Iterator[dict[str, Any]]:
    """Preference rows, and in the report what gave none."""
    for one in ends.values():
        margin = one.best[1] - one.worst[1]
        if one.count < 2:
            report.single += 1
        elif margin <= min_margin or one.best[0] == one.worst[0]:
            report.close += 1
        else:
            report.pairs += 1
            yield {
                "prompt": one.prompt,
                "chosen": one.best[0],
                "rejected": one.worst[0],
                "chosen_score": one.best[1],
                "rejected_score": one.worst[1],
            }


def _as_list(value: Any) -> list[Any] | None:
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, (list, tuple)) else None


def _score(value: Any, name: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f"'{name}' is {value!r:.40}, not a finite number", fix="Correct it, or write null.")
    return number
