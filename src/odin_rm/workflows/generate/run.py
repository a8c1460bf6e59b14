"""Writing a model's responses to a prompt file, in AlpacaEval's model-output format.

The output is a JSON list of ``instruction``, ``output`` and ``generator`` and, beside them, ``output_tokens`` and
``ended``; ``<output>.settings.json`` says how they were decoded. Responses that are done wait in
``<output>.partial.jsonl``, so the same command goes on where an earlier one was stopped, and a run in two parts writes
what one run would have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from odin_rm.core.errors import OutputError, RowError, RunInterrupted
from odin_rm.core.files import atomic_write_json, dump_json, environment_record
from odin_rm.core.journal import Journal
from odin_rm.core.progress import Progress
from odin_rm.core.system import is_there
from odin_rm.data.prompts import PromptSet, load_prompts, template_takes
from odin_rm.data.render import Prompt
from odin_rm.judging.chat import endpoint_address
from odin_rm.model.policy import policy_tokenizer
from odin_rm.runs.output_folder import command_note, was_cut_short, writer_of
from odin_rm.workflows.generate.config import GenerateConfig
from odin_rm.workflows.generate.writers import EndpointWriter, ModelWriter, ResponseWriter, Row, refuse_variables

# What may differ between a run and its continuation: how fast, not what.
_PACE = ("device", "rollout_tokens", "concurrency", "requests_per_minute", "timeout", "retries", "api_key_env")
_ASIDE = (*_PACE, "output", "overwrite", "generator", "on_bad_row")


def run_generate(config: GenerateConfig) -> Row:
    """Write the file.

    Args:
        config: the settings.

    Returns:
        What ``<output>.settings.json`` holds: ``prompts``; ``resumed``, the rows that an earlier, stopped run had
        written; ``mean_tokens`` of the responses by the model's tokenizer (``None`` where an endpoint does not say);
        ``ended_share``, of those that ended by themselves; ``empty``, responses without text; ``refused``, of these
        the ones that an endpoint refused to write; ``skipped``, rows that were left out; ``settings``;
        ``environment``.

    Raises:
        OdinError: bad input or a file that exists (nothing is written), a stopped run with other settings, an endpoint
            that fails (what it wrote is kept).
        RunInterrupted: stopped by a signal; what was written is kept.
    """
    output = Path(config.output)
    if output.is_dir():
        raise OutputError("is a folder, not a file", where=str(output), fix="Choose another name.")
    note = command_note("generate", config)
    if is_there(output) and not (config.overwrite or was_cut_short(output, note)):
        raise OutputError("exists already", where=str(output), fix="Choose another name, or pass --overwrite.")
    with writer_of(output, note):
        return _generate(config, output)


def _generate(config: GenerateConfig, output: Path) -> Row:
    prompts = read_prompts(config)
    instructions = [instruction(prompt) for prompt in prompts.prompts]
    partial = _Partial(output, _asked(config, instructions))
    resumed = len(partial.rows)
    missing = [position for position in range(len(instructions)) if position not in partial.rows]
    if missing:
        writer: ResponseWriter = EndpointWriter(config, prompts) if config.at_endpoint else ModelWriter(config, prompts)
        partial.journal.begin()
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
    note = _note(config, rows, resumed, refused=len(rows) - len(partial.rows), skipped=prompts.skipped)
    atomic_write_json(output.with_name(output.name + ".settings.json"), note)
    atomic_write_json(output, rows)
    partial.journal.remove()
    return note


def instruction(prompt: Prompt) -> str:
    """The prompt as AlpacaEval's ``instruction``: a single question as it is, other conversations turn by turn."""
    if isinstance(prompt, str):
        return prompt
    if [message["role"] for message in prompt] == ["user"]:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content'] or ''}" for message in prompt)


# ---- internals -------------------------------------------------------------------------------------------------------


def read_prompts(config: GenerateConfig) -> PromptSet:
    """The prompts of a config, each of them once.

    Raises:
        RowError: a prompt that the model cannot take, or that is there twice, where ``on_bad_row`` is ``"error"``.
    """
    skip = config.on_bad_row == "skip"
    check: Callable[[Prompt], None] | None = None  # without skipping the writer says it, of all prompts at once
    if config.at_endpoint:
        check = refuse_variables
    elif skip:
        tokenizer = policy_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
        check = template_takes(tokenizer, config.chat_template)
    mode: Literal["error", "skip"] = "skip" if skip else "error"
    prompts = load_prompts(config.prompts, on_bad_row=mode, columns=config.columns, check=check)
    kept: list[int] = []
    first: dict[str, int] = {}
    for number, prompt in enumerate(prompts.prompts):
        if len(kept) == config.limit:
            break
        known = first.setdefault(instruction(prompt), number)
        if known == number:
            kept.append(number)
        elif not skip:
            what = f"the prompt is that of {prompts.places[known]} again"
            fix = "Give each prompt once: judgements are joined by it. To leave such rows out: --on_bad_row skip"
            raise RowError(what, where=prompts.places[number], fix=fix)
    read = kept[-1] + 1
    return PromptSet(
        [prompts.prompts[number] for number in kept],
        {name: [values[number] for number in kept] for name, values in prompts.columns.items()},
        prompts.source,
        [prompts.places[number] for number in kept],
        prompts.skipped + read - len(kept),
        prompts.layouts,
    )


def _asked(config: GenerateConfig, instructions: list[str]) -> Row:
    """All that decides the responses, for comparing a stopped run with its continuation."""
    digest = hashlib.sha256(dump_json(instructions).encode("utf-8", "surrogatepass")).hexdigest()
    settings = {name: value for name, value in _settings(config).items() if name not in _ASIDE}
    return {**settings, "prompts_sha256": digest}


def _settings(config: GenerateConfig) -> Row:
    # The address may come from the environment, which the next run need not share.
    address = endpoint_address(config.base_url) if config.at_endpoint else None
    return {**asdict(config), "base_url": address}


def _note(config: GenerateConfig, rows: list[Row], resumed: int, *, refused: int, skipped: int) -> Row:
    tokens = [row["output_tokens"] for row in rows if row["output_tokens"] is not None]
    return {
        "generator": config.name,
        "prompts": len(rows),
        "resumed": resumed,
        "mean_tokens": sum(tokens) / len(tokens) if tokens else None,
        "ended_share": sum(row["ended"] for row in rows) / len(rows),
        "empty": sum(not row["output"] for row in rows),
        "refused": refused,
        "skipped": skipped,
        "settings": _settings(config),
        "environment": environment_record(),
    }


class _Partial:
    """Responses on their way.

    Args:
        output: the file that is going to be written.
        asked: what decides the responses.

    Raises:
        OutputError: a stopped run left responses by other settings.
    """

    def __init__(self, output: Path, asked: Row) -> None:
        self.journal = Journal(output.with_name(output.name + ".partial.jsonl"), asked)
        self.rows: dict[int, Row] = {}
        try:
            for part in self.journal.parts:
                self.rows |= dict(enumerate(part["rows"], start=part["start"]))
        except (KeyError, TypeError) as error:
            what = "holds something else than the responses of a stopped run"
            raise OutputError(what, where=str(self.journal.path), fix="Move it away.") from error

    def add(self, start: int, rows: list[Row]) -> None:
        """Save the responses to the prompts from ``start`` on."""
        self.journal.add({"start": start, "rows": rows})
        self.rows |= dict(enumerate(rows, start=start))
