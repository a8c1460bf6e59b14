"""Judging a candidate's outputs against a baseline's, in both orders.

The output folder holds ``annotations.json`` (AlpacaEval's format, one row per prompt, as ``odin-rm win-rate`` reads
it), ``judge.json`` (settings, counts, what swapping the answers shows of the judge), ``config.yaml``,
``environment.json`` and ``cache.sqlite`` (each reply, from the moment it arrives). The same command goes on where an
earlier one stopped.

Two equal answers are a tie without a question. A reply that cannot be read is asked for once more. A prompt without a
readable reply in both orders has ``preference`` null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from odin_rm.core.errors import ConfigError, DataError, JudgeError, OutputError, RunInterrupted
from odin_rm.core.files import atomic_write_json, atomic_write_text, environment_record
from odin_rm.core.progress import Progress
from odin_rm.core.reading import read_yaml
from odin_rm.evaluation.judge_template import load_template
from odin_rm.evaluation.judgements import BothOrders, Judgement, Question, combine_orders, summarise_orders
from odin_rm.judging.cache import JudgementCache, Replies, question_key, read_replies
from odin_rm.judging.chat import ChatSettings
from odin_rm.judging.endpoint import EndpointJudge
from odin_rm.judging.judge import Judge
from odin_rm.judging.recorded import RecordedJudge
from odin_rm.judging.scored import RewardModelJudge, RewardModelSettings, TruthJudge
from odin_rm.results.annotation_rows import EMPTY_LOST
from odin_rm.results.outputs import ModelOutputs, OutputPair, pair_outputs, read_outputs
from odin_rm.results.preference_codes import preference_codes
from odin_rm.runs.output_folder import OutputFolder, check_output_folder
from odin_rm.workflows.judge.config import ENDPOINT, JudgeConfig, is_recorded

CACHE = "cache.sqlite"
ATTEMPTS = 2

_MILLION = 1_000_000
# What may change between a run and its continuation: how fast, not what.
_PACE = ("concurrency", "requests_per_minute", "tokens_per_minute", "timeout", "retries", "stream", "api_key_env")
_ASIDE = ("input_price", "output_price", "microbatch_tokens", "device", "dry_run", "overwrite_output_dir")


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        prompts: prompts in both files.
        calls: questions that the cache cannot answer.
        cached: questions that it can.
        identical: prompts with two equal answers, which are not asked about.
        prompt_tokens, completion_tokens: of the calls; estimated, and at most. 0 for judges that are not paid.
        cost: in the prices' currency; ``None`` without prices.
    """

    prompts: int
    calls: int
    cached: int
    identical: int
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    cost: float | None = None


def make_judge(config: JudgeConfig) -> Judge:
    """The judge that ``--judge`` names; nothing heavy is loaded yet.

    Raises:
        OdinError: an unusable template, address or file of recorded judgements.
    """
    name = config.judge
    if is_recorded(name):
        return RecordedJudge(name, preference_codes(config.preference_codes))
    if name.startswith(ENDPOINT):
        if name == ENDPOINT:
            raise ConfigError("names no model", where=f"--judge {ENDPOINT}", fix=f"Write {ENDPOINT}NAME.")
        named = [key for key in ChatSettings.__dataclass_fields__ if key not in ("model", "top_p")]
        settings = ChatSettings(name.removeprefix(ENDPOINT), **{key: getattr(config, key) for key in named})
        return EndpointJudge(settings, load_template(config.template))
    if name == "gold":
        return TruthJudge(config.tie_margin)
    chosen = {key: getattr(config, key) for key in RewardModelSettings.__dataclass_fields__ if key != "model"}
    return RewardModelJudge(RewardModelSettings(name, **chosen))


class _Comparison:
    """The files, the judge and the questions of a run."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        empty = config.empty_outputs == "lose"
        self.candidate: ModelOutputs = read_outputs(config.candidate, empty=empty)
        self.baseline: ModelOutputs = read_outputs(config.baseline, empty=empty)
        self.pairs = pair_outputs(self.candidate, self.baseline)
        self.judge = make_judge(config)
        self.folder = _check_folder(config)
        identity = self.judge.identity()
        told_apart = [pair for pair in self.pairs if pair.baseline != pair.candidate and not _one_is_empty(pair)]
        asked = [Question(pair.instruction, pair.baseline, pair.candidate) for pair in told_apart]
        self.questions = [question for one in asked for question in (one, one.swapped())]
        self.keys = {question: question_key(identity, question) for question in self.questions}

    @property
    def identical(self) -> int:
        """Pairs of equal answers, which are ties without a question."""
        return sum(pair.baseline == pair.candidate for pair in self.pairs)

    def waiting(self, replies: Replies, attempt: int) -> list[Question]:
        """Questions whose reply of this attempt is wanted and not there."""
        return [
            question
            for question in self.questions
            if len(known := replies.get(self.keys[question], [])) == attempt
            and (not known or (known[-1].preference is None and self.judge.ask_again))
        ]

    def orders(self, pair: OutputPair, replies: Replies) -> BothOrders:
        """What both orders say of a pair."""
        if pair.baseline == pair.candidate:
            return BothOrders(1.5, 1.5)
        if _one_is_empty(pair):
            return BothOrders(2.0, 2.0) if pair.candidate else BothOrders(1.0, 1.0)
        question = Question(pair.instruction, pair.baseline, pair.candidate)
        last: list[Judgement | None] = [
            known[-1] if (known := replies.get(self.keys[one])) else None for one in (question, question.swapped())
        ]
        return combine_orders(*last)


def _one_is_empty(pair: OutputPair) -> bool:
    return not (pair.baseline and pair.candidate)


def estimate_run(config: JudgeConfig) -> Estimate:
    """What :func:`run_judge` would take; needs no key and writes nothing.

    Raises:
        OdinError: the same bad input that a run would refuse.
    """
    comparison = _Comparison(config)
    replies = read_replies(comparison.folder / CACHE, comparison.keys.values())
    first, again = (comparison.waiting(replies, attempt) for attempt in range(ATTEMPTS))
    calls, judge = first + again, comparison.judge
    counts = {
        "prompts": len(comparison.pairs),
        "calls": len(calls),
        "cached": len(comparison.questions) - len(calls),
        "identical": comparison.identical,
    }
    if not isinstance(judge, EndpointJudge):
        return Estimate(**counts)
    prompt_tokens = sum(judge.estimate_tokens(question) for question in calls)
    most = None if config.max_tokens is None else config.max_tokens * len(calls)
    return Estimate(
        **counts, prompt_tokens=prompt_tokens, completion_tokens=most, cost=_cost(config, prompt_tokens, most)
    )


def run_judge(config: JudgeConfig) -> dict[str, Any]:
    """Judge every prompt in both orders and write the output folder.

    Args:
        config: the settings.

    Returns:
        The content of ``judge.json``.

    Raises:
        OdinError: bad input (nothing is written), or a judge that stopped answering (what it said is kept).
        RunInterrupted: stopped by a signal; every reply that had arrived is kept.
    """
    comparison = _Comparison(config)
    folder, judge, keys = comparison.folder, comparison.judge, comparison.keys
    known = read_replies(folder / CACHE, keys.values())
    if any(comparison.waiting(known, attempt) for attempt in range(ATTEMPTS)):
        judge.prepare(comparison.questions)
    with OutputFolder(folder, "judge") as output:
        output.claim(resume=True, results=("annotations.json", "judge.json"))
        report = _judge_into(config, comparison)
        output.complete()
    return report


def _judge_into(config: JudgeConfig, comparison: _Comparison) -> dict[str, Any]:
    folder, judge, keys = comparison.folder, comparison.judge, comparison.keys
    atomic_write_text(folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
    atomic_write_json(folder / "environment.json", environment_record())
    with JudgementCache(folder / CACHE) as cache:
        known = cache.read(keys.values())
        cached = sum(map(len, known.values()))
        try:
            for attempt in range(ATTEMPTS):
                _ask(comparison, cache, attempt)
        except KeyboardInterrupt as stop:
            done = len(cache.read(keys.values()))
            what = f"{done:,} of {len(comparison.questions):,} judgements are saved"
            raise RunInterrupted(what, where=str(folder), fix="Run the same command again to go on.") from stop
        replies = cache.read(keys.values())
    judged = [comparison.orders(pair, replies) for pair in comparison.pairs]
    if all(item.preference is None for item in judged):
        problem = judge.client.problem if isinstance(judge, EndpointJudge) else ""
        what = f"the judge {judge.name} gave no prompt a preference that can be read" + (problem and f" ({problem})")
        fix = "Look at its replies there" + ("." if problem else ", and at the template.")
        raise JudgeError(what, where=str(folder / CACHE), fix=fix)
    report = _report(comparison, replies, judged, cached)
    atomic_write_json(
        folder / "annotations.json", [_row(comparison, *item) for item in zip(comparison.pairs, judged, strict=True)]
    )
    atomic_write_json(folder / "judge.json", report)
    return report


def _ask(comparison: _Comparison, cache: JudgementCache, attempt: int) -> None:
    questions = comparison.waiting(cache.read(comparison.keys.values()), attempt)
    if not questions:
        return
    title = "judging" if attempt == 0 else "asking again for replies that could not be read"
    with Progress(title, len(questions), unit="questions") as bar:

        def record(number: int, judgement: Judgement) -> None:
            cache.add(comparison.keys[questions[number]], attempt, judgement)
            bar.advance()

        comparison.judge.judge(questions, record)


# ---- what is written -------------------------------------------------------------------------------------------------


def _row(comparison: _Comparison, pair: OutputPair, orders: BothOrders) -> dict[str, Any]:
    row = {
        "instruction": pair.instruction,
        "output_1": pair.baseline,
        "output_2": pair.candidate,
        "generator_1": comparison.baseline.generator,
        "generator_2": comparison.candidate.generator,
        "annotator": comparison.judge.name,
        "preference": orders.preference,
        "preference_candidate_second": orders.candidate_second,
        "preference_candidate_first": orders.candidate_first,
    }
    if _one_is_empty(pair):
        row[EMPTY_LOST] = True
    return row if pair.dataset is None else {**row, "dataset": pair.dataset}


def _report(comparison: _Comparison, replies: Replies, judged: Sequence[BothOrders], cached: int) -> dict[str, Any]:
    config, judge = comparison.config, comparison.judge
    every = [reply for known in replies.values() for reply in known]
    prompt_tokens = sum(reply.prompt_tokens for reply in every)
    completion_tokens = sum(reply.completion_tokens for reply in every)
    endpoint = judge if isinstance(judge, EndpointJudge) else None
    return {
        "judge": {"name": judge.name, **judge.identity()},
        "template": config.template if endpoint else None,
        **{
            name: {"generator": side.generator, "file": Path(side.path).name, "sha256": side.digest()}
            for name, side in (("candidate", comparison.candidate), ("baseline", comparison.baseline))
        },
        **summarise_orders(judged),
        "judgements": {
            "questions": len(comparison.questions),
            "identical": comparison.identical,
            "empty": sum(map(_one_is_empty, comparison.pairs)),
            "replies": len(every),
            "from_cache": cached,
            "unparsed_replies": sum(reply.preference is None for reply in every),
            "asked_again": sum(len(known) > 1 for known in replies.values()),
            "unparsed": sum(known[-1].preference is None for known in replies.values()),
            "refused": endpoint.client.refused if endpoint else 0,
            "left": endpoint.client.left if endpoint else 0,
            "calls_made_again": endpoint.client.retried if endpoint else 0,
        },
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cost": _cost(config, prompt_tokens, completion_tokens) if endpoint else None,
    }


def _cost(config: JudgeConfig, prompt_tokens: int, completion_tokens: int | None) -> float | None:
    if config.input_price is None or config.output_price is None or completion_tokens is None:
        return None
    return (prompt_tokens * config.input_price + completion_tokens * config.output_price) / _MILLION


# ---- the folder ------------------------------------------------------------------------------------------------------


def _settings(config: JudgeConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in (*_PACE, *_ASIDE, "output")}


def _check_folder(config: JudgeConfig) -> Path:
    """Refuse a folder of another kind, or one with a comparison by other settings unless that may be replaced."""
    folder = check_output_folder(config.output, "judge", resume=True)
    if not (folder / "config.yaml").is_file():
        return folder
    try:
        there = read_yaml(folder / "config.yaml")
    except DataError:
        there = None
    if not isinstance(there, dict) or not {"candidate", "baseline", "judge"} <= there.keys():
        raise OutputError("the output folder holds another run", where=str(folder), fix="Choose another folder.")
    there.setdefault("empty_outputs", "error")  # earlier versions had no other
    changed = [name for name, value in _settings(config).items() if there.get(name) != value]
    if changed and not config.overwrite_output_dir:
        name = changed[0]
        what = f"the output folder holds a comparison with {name} {there.get(name)!r}, not {getattr(config, name)!r}"
        fix = "Choose another folder, or pass --overwrite to replace its results."
        raise OutputError(what, where=str(folder), fix=fix)
    return folder
