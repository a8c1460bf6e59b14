"""Scoring files of any size: rows of prompt and response in, the same rows in the same order with scores out.

Rows are read, encoded, scored and written in chunks, so memory depends on the chunk and not on the file (a ``.json``
list is the exception: it is read at once). Inside a chunk a prompt that several rows share is computed once where the
model allows it, so rows of one prompt are best kept near each other.

No row is ever lost. A sequence longer than ``max_length`` that the policy ``drop`` would leave out of training keeps
its row here, with its true ``response_tokens`` and ``quality`` null. With ``--on_bad_row skip`` an unusable row is kept
with all three fields null (a line that is no row at all becomes a row of nulls) and is listed, with its number and the
reason, in ``<output>.skipped.jsonl``. The output appears when everything is done, or not at all. The scores of chunks
that are done wait in ``<output>.partial.jsonl``, so that the same command goes on where it was stopped, and writes the
bytes that an uninterrupted run would have.

A row without a response may hold a ``text`` that the model's own template has rendered (:mod:`odin_rm.data.rendered`);
it gets a field ``cut`` more, true where the text has no end token.

A model with a calibration beside it gives calibrated ``quality``; ``quality_uncalibrated`` is then the model's own.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odin_rm.core.errors import (
    DataError,
    MachineError,
    NumericalError,
    OdinError,
    OutputError,
    RowError,
    RunInterrupted,
)
from odin_rm.core.files import RowWriter, read_rows
from odin_rm.core.journal import Journal
from odin_rm.core.progress import Progress
from odin_rm.core.reading import opened
from odin_rm.core.rows import row_format
from odin_rm.core.signals import interruptible
from odin_rm.core.system import is_there
from odin_rm.data.attributes import measure_attributes, text_attributes
from odin_rm.data.columns import Columns
from odin_rm.runs.output_folder import command_note, was_cut_short, writer_of
from odin_rm.workflows.score.config import ScoreConfig
from odin_rm.workflows.score.rows import CUT, RowFields, RowTexts, read_texts

if TYPE_CHECKING:
    from odin_rm.data.tokenise import EncodedResponse, EncodingSettings
    from odin_rm.model.scoring import Scorer

ADDED = ("quality", "length_reward", "response_tokens")
UNCALIBRATED = "quality_uncalibrated"
"""Beside a calibrated quality: the model's own."""
# Texts per call of the tokenizer: enough for its threads, few enough to find a refused conversation quickly.
_ENCODED_AT_ONCE = 1000


@dataclass
class ScoreReport:
    """What a scoring pass did.

    Attributes:
        rows: rows written.
        scored: rows with a quality reward.
        overlong: rows longer than ``max_length``, written with quality null.
        overlong_prompts: those of them of which the prompt alone is longer.
        max_length: the most tokens of a sequence.
        truncated: scored rows of which something was cut away.
        truncated_responses: those of them that lost a part of the response.
        bad_rows: unusable rows, written with nulls.
        completed: rendered texts that ended otherwise than the template ends them, and were given its ending.
        cut: rendered texts without an end token, scored as they are.
        rewritten: scored rows of which the template leaves a part of the response out, or changes it.
        unrendered: names of what rows hold beside texts and the template does not write.
        layouts: the public layouts that rows were read from.
        template_date: the date that stands for today's in the chat template's texts, or ``None``.
        seconds: wall-clock time of reading, scoring and writing, without loading the model.
    """

    rows: int = 0
    scored: int = 0
    overlong: int = 0
    overlong_prompts: int = 0
    max_length: int = 0
    truncated: int = 0
    truncated_responses: int = 0
    bad_rows: int = 0
    completed: int = 0
    cut: int = 0
    rewritten: int = 0
    unrendered: set[str] = field(default_factory=set)
    layouts: dict[str, int] = field(default_factory=dict)
    template_date: str | None = None
    seconds: float = 0.0

    def count(self, item: _Item) -> None:
        """Add a row."""
        self.rows += 1
        self.scored += item.scores is not None
        self.bad_rows += item.error is not None
        if item.encoded is not None:
            self.overlong += item.encoded.dropped
            self.overlong_prompts += item.encoded.dropped and item.encoded.prompt_tokens > self.max_length
            self.truncated += item.encoded.truncated
            self.truncated_responses += item.encoded.response_cut > 0
            self.cut += not item.encoded.ended
            self.rewritten += item.encoded.rewritten and item.scores is not None
        self.completed += item.texts is not None and item.texts.completed
        if item.texts is not None and item.texts.layout is not None:
            self.layouts[item.texts.layout] = self.layouts.get(item.texts.layout, 0) + 1


@dataclass
class _Item:
    """A row on its way: what was read, what is wrong with it, its sequence, its scores and the calibrated quality."""

    number: int
    row: dict[str, Any] | None
    error: RowError | None = None
    texts: RowTexts | None = None
    encoded: EncodedResponse | None = None
    scores: tuple[float, float | None] | None = None
    calibrated: float | None = None


def skipped_file(output: str | Path) -> Path:
    """Where the unusable rows of an output file are listed."""
    return Path(f"{output}.skipped.jsonl")


def run_score(config: ScoreConfig) -> ScoreReport:
    """Score a file.

    Args:
        config: the settings.

    Returns:
        The counts of what was done.

    Raises:
        OdinError: bad input, an output that exists already, a model that cannot be loaded, a score that is not finite.
        RunInterrupted: stopped by SIGINT or SIGTERM; the scores of chunks that were done are kept.
    """
    note = command_note("score", config)
    _check_output(config, config.overwrite_output or was_cut_short(config.output, note))
    with writer_of(config.output, note):
        return _score(config)


def _score(config: ScoreConfig) -> ScoreReport:
    items = _read_items(config)  # a missing or empty file ends here, before the model is loaded
    from odin_rm.data.render import fixed_date
    from odin_rm.model.scoring import load_scorer, text_settings

    scorer = load_scorer(
        config.model,
        column=config.column,
        dtype=config.dtype,
        device=config.device,
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
        read_at=config.read_at,
        calibration=config.calibration,
    )
    scorer.batch_layout, scorer.tree_attention = config.batch_layout, config.tree_attention
    settings = text_settings(scorer, max_length=config.max_length, overlong=config.overlong)
    report, start = ScoreReport(max_length=settings.max_length), time.perf_counter()
    report.template_date = fixed_date(scorer.tokenizer, settings.chat_template)
    journal = Journal(partial_file(config.output), _asked(config), anew=config.overwrite_output)
    try:
        with interruptible(), _told_what_is_kept(config, report):
            _score_all(config, scorer, settings, items, journal, report)
    except OdinError as error:
        if not isinstance(error, (MachineError, RunInterrupted)):
            journal.remove()  # the input or a flag must change, and then nothing of it counts
        raise
    journal.remove()
    report.seconds = time.perf_counter() - start
    return report


@contextmanager
def _told_what_is_kept(config: ScoreConfig, report: ScoreReport) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        if not report.rows:
            raise
        what = f"the scores of {report.rows:,} rows are saved"
        raise RunInterrupted(what, where=config.output, fix="Run the same command again to go on.") from stop


def partial_file(output: str | Path) -> Path:
    """Where the scores of a run that is under way, or was stopped, wait."""
    return Path(f"{output}.partial.jsonl")


def _asked(config: ScoreConfig) -> dict[str, Any]:
    """All that decides the scores, for comparing a stopped run with its continuation."""
    from odin_rm import __version__
    from odin_rm.judging.scored import folder_state

    settings = {name: value for name, value in asdict(config).items() if name not in ("output", "overwrite_output")}
    digest = uuid.uuid4().hex  # what a pipe gives comes once only, so no other run goes on with its scores
    if Path(config.input).is_file():
        with opened(config.input) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {**settings, "input_sha256": digest, "model_state": folder_state(config.model), "odin_rm": __version__}


def _score_all(
    config: ScoreConfig,
    scorer: Scorer,
    settings: EncodingSettings,
    items: Iterator[_Item],
    journal: Journal,
    report: ScoreReport,
) -> None:
    begun, known = False, iter([part.get("scores") for part in journal.parts])
    with ExitStack() as stack:
        bar = stack.enter_context(Progress("scoring", count_rows(config.input), unit="rows"))
        writer = stack.enter_context(RowWriter(config.output))
        skipped: RowWriter | None = None
        while chunk := list(islice(items, config.chunk_rows)):
            earlier = next(known, None)
            _score_chunk(config, scorer, settings, chunk, bar.advance, earlier)
            if earlier is None:
                if not begun:
                    journal.begin()
                    begun = True
                journal.add({"scores": [item.scores for item in chunk]})
            report.unrendered |= _unrendered(scorer.tokenizer, settings, chunk)
            _calibrate_chunk(scorer, chunk)
            columns = _columns(config, chunk)
            for item in chunk:
                report.count(item)
                writer.write(_scored_row(config, item, columns, scorer.dial is not None))
                if item.error is not None:
                    if skipped is None:
                        skipped = stack.enter_context(RowWriter(skipped_file(config.output)))
                    skipped.write({"row": item.number, "reason": str(item.error), "data": item.row})
    if skipped is None:
        skipped_file(config.output).unlink(missing_ok=True)  # an earlier output's list


def _check_output(config: ScoreConfig, overwrite: bool) -> None:
    row_format(config.output)
    if Path(config.output).is_dir():
        raise OutputError("is a folder, not a file", where=config.output, fix="Give the name of a file.")
    for path in (Path(config.output), skipped_file(config.output)):
        if is_there(path) and not overwrite:
            fix = "Choose another one, or pass --overwrite to replace it."
            raise OutputError("the output file exists already", where=str(path), fix=fix)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read_items(config: ScoreConfig) -> Iterator[_Item]:
    """Rows with their numbers; with ``skip`` malformed ones too, at their place."""
    malformed: list[RowError] = []
    rows = read_rows(config.input, malformed.append if config.on_bad_row == "skip" else None)

    def stream() -> Iterator[_Item]:
        first = True
        for number, row in rows:
            if first:
                Columns(config.columns).check(row, config.input)
                first = False
            yield from _drain(malformed)
            yield _Item(number, row)
        yield from _drain(malformed)

    return stream()


def _drain(malformed: list[RowError]) -> Iterator[_Item]:
    for error in malformed:
        yield _Item(int(error.where.rpartition(" ")[2]), None, error)
    malformed.clear()


def _fields(config: ScoreConfig) -> RowFields:
    return RowFields.of(config.prompt_field, config.response_field, config.text_field, config.columns)


def _parse(config: ScoreConfig, item: _Item, tokenizer: Any, settings: EncodingSettings) -> bool:
    """Read the texts of a row; false where it is unusable (noted in the item)."""
    if item.row is None:
        return False
    fields = _fields(config)
    added = (*ADDED, *text_attributes(), *((CUT,) if fields.is_text(item.row) else ()))
    there = [name for name in added if name in item.row]
    if there and not config.overwrite_scores:
        fix = "Pass --overwrite_scores to replace it, or rename the field."
        raise DataError(f"the row already has the field '{there[0]}'", where=_place(config, item), fix=fix)
    try:
        item.texts = read_texts(item.row, fields, tokenizer, settings, row_format(config.input)[0])
    except RowError as error:
        _fail(config, item, RowError(error.what, where=_place(config, item), fix=error.fix))
    return item.texts is not None


def _place(config: ScoreConfig, item: _Item) -> str:
    return f"{config.input}, row {item.number}"


def _fail(config: ScoreConfig, item: _Item, error: RowError) -> None:
    if config.on_bad_row == "error":
        raise error
    item.error = error


# ---- scoring ---------------------------------------------------------------------------------------------------------


def _score_chunk(
    config: ScoreConfig,
    scorer: Scorer,
    settings: EncodingSettings,
    chunk: Sequence[_Item],
    advance: Callable[[int], None],
    earlier: list[Any] | None = None,
) -> None:
    """Encode and score a chunk; results go into its items. ``earlier`` holds the scores if a stopped run has them."""
    from odin_rm.model.scoring import score_sequences

    usable = [item for item in chunk if _parse(config, item, scorer.tokenizer, settings)]
    for start in range(0, len(usable), _ENCODED_AT_ONCE):
        _encode(config, scorer.tokenizer, settings, usable[start : start + _ENCODED_AT_ONCE])
    ready = [item for item in chunk if item.encoded is not None and not item.encoded.dropped]
    advance(len(chunk) - len(ready))
    if not ready:
        return
    sequences = [np.asarray(item.encoded.input_ids, dtype=np.int32) for item in ready if item.encoded is not None]
    layout = scorer.layout(sequences)  # verified on the same sequences whether or not their scores are known
    if earlier is not None:
        _take_earlier(config, chunk, earlier)
        return
    quality_R, length_R = score_sequences(
        scorer.model,
        sequences,
        pad_token_id=scorer.pad_token_id,
        microbatch_tokens=config.microbatch_tokens,
        device=scorer.device,
        progress=advance,
        layout=layout,
    )
    for k, item in enumerate(ready):
        if not np.isfinite(quality_R[k]) or (length_R is not None and not np.isfinite(length_R[k])):
            fix = "Load the model in float32, or check that its weights are sound."
            raise NumericalError("the model's score is not finite", where=_place(config, item), fix=fix)
        item.scores = (float(quality_R[k]), None if length_R is None else float(length_R[k]))


def _calibrate_chunk(scorer: Scorer, chunk: Sequence[_Item]) -> None:
    """The calibrated quality of rows with scores, where the model has a dial."""
    scored = [(item, item.scores) for item in chunk if item.scores is not None]
    if scorer.dial is None or not scored:
        return
    texts = [item.texts for item, _ in scored if item.texts is not None]
    tokens = [item.encoded.response_tokens for item, _ in scored if item.encoded is not None]
    attributes = scorer.dial.attributes_of(tokens, [one.response for one in texts])
    quality_R = np.array([quality for _, (quality, _) in scored])
    calibrated = scorer.dial(quality_R, attributes, [repr(one.prompt) for one in texts])
    for (item, _), value in zip(scored, calibrated.tolist(), strict=True):
        item.calibrated = value


def _unrendered(tokenizer: Any, settings: EncodingSettings, chunk: Sequence[_Item]) -> set[str]:
    from odin_rm.data.render import unrendered

    texts = [text for item in chunk if item.texts is not None for text in (item.texts.prompt, item.texts.response)]
    return unrendered(tokenizer, settings.chat_template, *texts)


def _take_earlier(config: ScoreConfig, chunk: Sequence[_Item], earlier: list[Any]) -> None:
    try:
        for item, scores in zip(chunk, earlier, strict=True):
            if scores is not None:
                quality, length = scores
                item.scores = (float(quality), None if length is None else float(length))
    except (TypeError, ValueError) as error:
        where = str(partial_file(config.output))
        raise OutputError("holds something else than scores", where=where, fix="Delete it.") from error


def _encode(config: ScoreConfig, tokenizer: Any, settings: EncodingSettings, usable: Sequence[_Item]) -> None:
    from odin_rm.data.tokenise import overlong_error

    # "error" is raised here: it stops the pass whatever --on_bad_row says, for a long row is not a broken one.
    lenient = replace(settings, overlong="drop") if settings.overlong == "error" else settings
    try:
        encoded: Sequence[EncodedResponse | None] = _encoded(config, tokenizer, lenient, usable)
    except RowError:
        encoded = [_encode_one(config, tokenizer, lenient, item) for item in usable]
    for item, one in zip(usable, encoded, strict=True):
        if one is not None and one.dropped and settings.overlong == "error":
            raise overlong_error(one, settings, _place(config, item))
        item.encoded = one


def _encode_one(config: ScoreConfig, tokenizer: Any, settings: EncodingSettings, item: _Item) -> EncodedResponse | None:
    try:
        return _encoded(config, tokenizer, settings, [item])[0]
    except RowError as error:
        _fail(config, item, error)
        return None


def _encoded(
    config: ScoreConfig, tokenizer: Any, settings: EncodingSettings, items: Sequence[_Item]
) -> list[EncodedResponse]:
    from odin_rm.data.tokenise import encode_named

    texts = [item.texts for item in items if item.texts is not None]
    prompts, responses = [one.prompt for one in texts], [one.response for one in texts]
    places, ended = [_place(config, item) for item in items], [one.ended for one in texts]
    return encode_named(tokenizer, prompts, responses, settings, places, ended=ended)


# ---- writing ---------------------------------------------------------------------------------------------------------


def _columns(config: ScoreConfig, chunk: Sequence[_Item]) -> list[str]:
    """Fields of a row of nulls: those of the chunk's first readable row."""
    first = next((item.row for item in chunk if item.row is not None), None)
    return [config.prompt_field, config.response_field] if first is None else list(first)


def _scored_row(config: ScoreConfig, item: _Item, columns: list[str], calibrated: bool = False) -> dict[str, Any]:
    row = dict.fromkeys(columns) if item.row is None else item.row
    quality, length = item.scores or (None, None)
    tokens = None if item.encoded is None else item.encoded.response_tokens
    scored = {**row, "quality": quality, "length_reward": length, "response_tokens": tokens}
    if calibrated:
        scored |= {"quality": item.calibrated, UNCALIBRATED: quality}
    elif config.overwrite_scores:
        scored.pop(UNCALIBRATED, None)  # of an earlier pass with a calibration
    if item.texts is not None:
        scored |= measure_attributes(item.texts.response)
    else:
        scored |= dict.fromkeys(text_attributes())
    if item.row is not None and _fields(config).is_text(item.row):
        scored[CUT] = None if item.encoded is None else not item.encoded.ended
    return scored


def count_rows(path: str | Path) -> int | None:
    """Number of rows where it is cheap to know: from a Parquet file's footer, or the lines of a plain ``.jsonl``."""
    suffix, gzipped = row_format(path)
    if gzipped or suffix not in (".jsonl", ".parquet"):
        return None
    if not Path(path).is_file():  # of a pipe, counting would take the rows away
        return None
    if suffix == ".jsonl":
        with opened(path) as file:
            return sum(1 for line in file if line.strip())
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):  # the reader will say what is wrong
        return None
