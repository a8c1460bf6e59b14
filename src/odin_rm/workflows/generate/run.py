"""Writing a model's responses to a prompt file, in AlpacaEval's model-output format.

The output is a JSON list of ``instruction``, ``output`` and ``generator`` and, beside them, ``output_tokens`` and
``ended``; ``<output>.settings.json`` says how they were decoded. Responses that are done wait in
``<output>.partial.jsonl``, so the same command goes on where an earlier one was stopped, and a run in two parts writes
what one run would have.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from odin_rm.core.errors import DataError, OutputError, RunInterrupted
from odin_rm.core.files import append_jsonl, atomic_write_bytes, atomic_write_json, dump_json, environment_record
from odin_rm.core.progress import Progress
from odin_rm.data.prompts import PromptSet, load_prompts
from odin_rm.data.render import Prompt, prompt_messages
from odin_rm.judging.chat import endpoint_address
from odin_rm.workflows.generate.config import GenerateConfig
from odin_rm.workflows.generate.writers import EndpointWriter, ModelWriter, ResponseWriter, Row

# What may differ between a run and its continuation: how fast, not what.
_PACE = ("device", "rollout_tokens", "concurrency", "requests_per_minute", "timeout", "retries", "api_key_env")
_ASIDE = (*_PACE, "output", "overwrite", "generator")


def run_generate(config: GenerateConfig) -> Row:
    """Write the file.

    Args:
        config: the settings.

    Returns:
        What ``<output>.settings.json`` holds: ``prompts``; ``resumed``, the rows that an earlier, stopped run had
        written; ``mean_tokens`` of the responses by the model's tokenizer (``None`` where an endpoint does not say);
        ``ended_share``, of those that ended by themselves; ``empty``, responses without text; ``refused``, of these
        the ones that an endpoint refused to write; ``settings``; ``environment``.

    Raises:
        OdinError: bad input or a file that exists (nothing is written), a stopped run with other settings, an endpoint
            that fails (what it wrote is kept).
        RunInterrupted: stopped by a signal; what was written is kept.
    """
    output = Path(config.output)
    if output.is_dir():
        raise OutputError("is a folder, not a file", where=str(output), fix="Choose another name.")
    if output.exists() and not config.overwrite:
        raise OutputError("exists already", where=str(output), fix="Choose another name, or pass --overwrite.")
    prompts = load_prompts(config.prompts)
    instructions = [instruction(prompt) for prompt in prompts.prompts[: config.limit]]
    _refuse_duplicates(instructions, prompts.places)
    prompts = PromptSet(
        prompts.prompts[: config.limit], prompts.columns, prompts.source, prompts.places[: config.limit]
    )
    partial = _Partial(output, _asked(config, instructions))
    resumed = len(partial.rows)
    missing = [position for position in range(len(instructions)) if position not in partial.rows]
    if missing:
        writer: ResponseWriter = EndpointWriter(config, prompts) if config.at_endpoint else ModelWriter(config, prompts)
        partial.begin()
        with Progress("writing", len(instructions), done=resumed, unit="responses") as bar:

            def take(start: int, rows: list[Row]) -> None:
                partial.add(start, rows)
                bar.advance(len(rows))

            try:
                writer.write(missing, take)
            except KeyboardInterrupt as stop:
                what = f"{len(partial.rows):,} of {len(instructions):,} responses are saved"
                raise RunInterrupted(what, where=str(output), fix="Run the same command again to go on.") from stop
    datasets = prompts.columns.get("dataset", [])
    none: Row = {"output": "", "output_tokens": None, "ended": False}  # an endpoint refused to write it
    rows = [
        {"instruction": text, **partial.rows.get(position, none), "generator": config.name}
        | ({"dataset": datasets[position]} if datasets and datasets[position] is not None else {})
        for position, text in enumerate(instructions)
    ]
    note = _note(config, rows, resumed, refused=len(rows) - len(partial.rows))
    atomic_write_json(output.with_name(output.name + ".settings.json"), note)
    atomic_write_json(output, rows)
    partial.remove()
    return note


def instruction(prompt: Prompt) -> str:
    """The prompt as AlpacaEval's ``instruction``: a single question as it is, other conversations turn by turn."""
    messages = prompt_messages(prompt)
    if [message["role"] for message in messages] == ["user"]:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


# ---- internals -------------------------------------------------------------------------------------------------------


def _refuse_duplicates(instructions: list[str], places: list[str]) -> None:
    first: dict[str, int] = {}
    for number, text in enumerate(instructions):
        if text in first:
            what = f"the prompt is that of {places[first[text]]} again"
            raise DataError(what, where=places[number], fix="Give each prompt once: judgements are joined by it.")
        first[text] = number


def _asked(config: GenerateConfig, instructions: list[str]) -> Row:
    """All that decides the responses, for comparing a stopped run with its continuation."""
    digest = hashlib.sha256(dump_json(instructions).encode("utf-8", "surrogatepass")).hexdigest()
    settings = {name: value for name, value in _settings(config).items() if name not in _ASIDE}
    return {**settings, "prompts_sha256": digest}


def _settings(config: GenerateConfig) -> Row:
    # The address may come from the environment, which the next run need not share.
    address = endpoint_address(config.base_url) if config.at_endpoint else None
    return {**asdict(config), "base_url": address}


def _note(config: GenerateConfig, rows: list[Row], resumed: int, refused: int) -> Row:
    tokens = [row["output_tokens"] for row in rows if row["output_tokens"] is not None]
    return {
        "generator": config.name,
        "prompts": len(rows),
        "resumed": resumed,
        "mean_tokens": sum(tokens) / len(tokens) if tokens else None,
        "ended_share": sum(row["ended"] for row in rows) / len(rows),
        "empty": sum(not row["output"] for row in rows),
        "refused": refused,
        "settings": _settings(config),
        "environment": environment_record(),
    }


class _Partial:
    """Responses on their way: one line of what was asked, then a line for all that arrives at once.

    Args:
        output: the file that is going to be written.
        asked: what decides the responses.

    Raises:
        OutputError: a stopped run left responses by other settings.
    """

    def __init__(self, output: Path, asked: Row) -> None:
        self.path = output.with_name(output.name + ".partial.jsonl")
        self.asked = asked
        self.rows: dict[int, Row] = {}
        self._lines: list[bytes] = []
        if not self.path.is_file():
            return
        # A line that a kill has cut off has no end, and counts as never written.
        self._lines = self.path.read_bytes().split(b"\n")[:-1]
        try:
            left, *parts = [json.loads(line) for line in self._lines] or [{"asked": asked}]
            there = dict(left["asked"])
            for part in parts:
                self.rows |= dict(enumerate(part["rows"], start=part["start"]))
        except (ValueError, KeyError, TypeError) as error:
            what = "holds something else than the responses of a stopped run"
            raise OutputError(what, where=str(self.path), fix="Move it away.") from error
        changed = [name for name, value in json.loads(dump_json(asked)).items() if there.get(name) != value]
        if changed:
            what = f"was left by a run with another {changed[0]}"
            raise OutputError(what, where=str(self.path), fix="Delete it to start anew, or give the same settings.")

    def begin(self) -> None:
        """Make the file, or take a cut line off it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"cannot be written ({error.strerror or error})"
            raise OutputError(what, where=str(self.path), fix="Choose another place for --output.") from error
        lines = self._lines or [dump_json({"asked": self.asked}).encode("utf-8")]
        atomic_write_bytes(self.path, b"".join(line + b"\n" for line in lines))

    def add(self, start: int, rows: list[Row]) -> None:
        """Save the responses to the prompts from ``start`` on."""
        append_jsonl(self.path, {"start": start, "rows": rows})
        self.rows |= dict(enumerate(rows, start=start))

    def remove(self) -> None:
        """All is written."""
        self.path.unlink(missing_ok=True)
