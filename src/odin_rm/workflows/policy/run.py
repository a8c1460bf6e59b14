"""What supervised fine-tuning and DPO share: settings, TRL's trainers without their network calls, the run folder.

The folder holds ``config.yaml`` (resolved), ``environment.json``, ``data_report.json`` (what of the rows was used),
``metrics.jsonl``, ``checkpoints/`` and at the end ``policy/``. Everything that can be refused is refused before it is
touched.
"""

from __future__ import annotations

import copy
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import Trainer, set_seed

from odin_rm.core.errors import CheckpointError, ConfigError
from odin_rm.core.files import append_jsonl, atomic_write_json, atomic_write_text, dump_json
from odin_rm.core.ranks import fail_on_all_ranks
from odin_rm.core.reading import read_json
from odin_rm.core.settings import trajectory
from odin_rm.data.demonstrations import EncodedRows, PolicyRows, encode_rows
from odin_rm.data.template_check import TemplateCheck
from odin_rm.model.backbone import check_token_ids, position_table, quiet_loading
from odin_rm.model.policy import end_token_ids, load_policy, save_policy
from odin_rm.model.scoring import DTYPES
from odin_rm.runs.callbacks import FiniteLoss, MetricsFile, StopOnSignal
from odin_rm.runs.checkpoints import SoundCheckpoints
from odin_rm.runs.data_record import DATA_FILE, data_record, say_data
from odin_rm.runs.output_folder import OutputFolder, replaced_model
from odin_rm.runs.run_folder import (
    Start,
    as_config_errors,
    check_required,
    check_same_settings,
    check_state_files,
    interrupted,
    read_note,
    write_settings,
)
from odin_rm.runs.talk import talking

DEFAULT_MAX_LENGTH = 1024
NOTE_FILE = "odin_policy_run.json"
"""In each checkpoint: the settings and data that it comes from."""


class QuietTrainer(SoundCheckpoints, Trainer):
    """Goes before a TRL trainer among the bases: no telemetry, no model cards, and a note in each checkpoint."""

    run_note: dict[str, Any]

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine unasked."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The run folder says what the policy is."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            atomic_write_json(Path(output_dir or str(self.args.output_dir)) / NOTE_FILE, self.run_note)


@dataclass(frozen=True)
class PolicyJob:
    """What one command is.

    Attributes:
        command: its name.
        refused: fields without effect, each with what to do instead.
        read: rows of a source (``on_bad_row``, ``columns`` and ``check`` by keyword).
        columns: encoded rows as the trainer's columns.
        make_trainer: model, arguments, training data, held-out data and tokenizer to a trainer.
    """

    command: str
    refused: dict[str, str]
    read: Callable[..., PolicyRows]
    columns: Callable[[EncodedRows], dict[str, list[Any]]]
    make_trainer: Callable[[Any, Any, Dataset, Dataset | None, Any], Any]


def train_policy(config: Any, job: PolicyJob) -> Path:
    """Train a policy and write its run folder.

    Args:
        config: the settings; ``model``, ``dataset`` and ``output_dir`` are required.
        job: what to train it on and how.

    Returns:
        The run folder.

    Raises:
        OdinError: bad input, a folder that holds another run, a foreign checkpoint, a loss that is not finite.
        RunInterrupted: a signal came; a checkpoint is saved.
    """
    check_required(config, ("model", "dataset", "output_dir"), job.command)
    with OutputFolder(config.output_dir, job.command, overwrite=config.overwrite_output_dir) as output:
        return _train_policy(config, job, output)


def _train_policy(config: Any, job: PolicyJob, output: OutputFolder) -> Path:
    run = output.path
    with fail_on_all_ranks():
        start = Start.find(output, config.resume_from_checkpoint)
        set_seed(config.seed)
        model, tokenizer = _load_model(config)
        rows = _read(config, job, tokenizer, config.dataset)
        encode = _encoder(config, model, tokenizer)
        encoded = encode(rows)
        check_token_ids(model, _sequences(encoded), where=rows.source)
        data = Dataset.from_dict(job.columns(encoded))
        records = {"train": data_record(encoded.report, rows.source)}
        held_out = None
        if config.eval_dataset is not None:
            held_out_rows = _read(config, job, tokenizer, config.eval_dataset)
            encoded_held_out = encode(held_out_rows)
            held_out = Dataset.from_dict(job.columns(encoded_held_out))
            records["eval"] = data_record(encoded_held_out.report, held_out_rows.source)
        say_data(records, noun="pairs" if "pairs" in encoded.report else "demonstrations")
        note = {"settings": trajectory(config), "data": _digest(encoded)}
        start = start.verified(lambda checkpoint: _check_checkpoint(checkpoint, note, job.command))
        if start.nothing_left(config, job.refused):
            return run
        trainer = _build(config, job, model, tokenizer, data, held_out)
        trainer.run_note = note
        trainer.args.output_dir = str(run / "checkpoints")
    with fail_on_all_ranks():
        if config.process_index == 0:
            start.claim()
            write_settings(run, config, job.refused, start.checkpoint)
            atomic_write_json(run / DATA_FILE, records)
            if rows.skipped:
                lines = "".join(dump_json(row) + "\n" for row in rows.skipped)
                atomic_write_text(run / "skipped_rows.jsonl", lines)
    _train(trainer, run, start.checkpoint)
    finish_policy(trainer, run, model, tokenizer, {"rows": len(encoded.prompt_ids), "overlong_rows": encoded.overlong})
    if config.process_index == 0:
        output.complete()
    return run


def _load_model(config: Any) -> tuple[Any, Any]:
    model, tokenizer = load_policy(
        config.model,
        dtype=DTYPES[config.model_dtype],
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
        lora_r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_target_modules=config.lora_target_modules.split(",") if config.lora_target_modules else None,
    )
    table = position_table(model)
    if config.max_length is None:
        config.max_length = min(DEFAULT_MAX_LENGTH, table or DEFAULT_MAX_LENGTH)
    elif table is not None and config.max_length > table:
        what = f"is {config.max_length:,}, but the model has {table:,} positions"
        raise ConfigError(what, where="--max_length", fix=f"Give at most {table}.")
    return model, tokenizer


def _read(config: Any, job: PolicyJob, tokenizer: Any, source: str) -> PolicyRows:
    check = TemplateCheck(tokenizer, config.chat_template, every_row=config.on_bad_row == "skip")
    return job.read(source, on_bad_row=config.on_bad_row, columns=config.columns, check=check)


def _encoder(config: Any, model: Any, tokenizer: Any) -> Callable[[PolicyRows], EncodedRows]:
    ends = end_token_ids(model, tokenizer)

    def encode(rows: PolicyRows) -> EncodedRows:
        return encode_rows(
            tokenizer,
            rows,
            end_token_ids=ends,
            max_length=config.max_length,
            overlong=config.overlong,
            chat_template=config.chat_template,
        )

    return encode


def _sequences(encoded: EncodedRows) -> Iterator[Any]:
    for prompt_ids, responses in zip(encoded.prompt_ids, encoded.response_ids, strict=True):
        yield from (np.asarray(ids, dtype=np.int64) for ids in (prompt_ids, *responses))


def _digest(encoded: EncodedRows) -> dict[str, int]:
    """What tells one encoded data set from another."""
    checksum = 0
    for prompt_ids, responses in zip(encoded.prompt_ids, encoded.response_ids, strict=True):
        for ids in (prompt_ids, *responses):
            checksum = zlib.crc32(np.asarray([len(ids), *ids], dtype=np.int32).tobytes(), checksum)
    return {"rows": len(encoded.prompt_ids), "checksum": checksum}


def _check_checkpoint(checkpoint: Path, note: dict[str, Any], command: str) -> None:
    their_settings, their_data = read_note(checkpoint, NOTE_FILE, command)
    check_same_settings(checkpoint, note["settings"], their_settings)
    if their_data != note["data"]:
        fix = "Give the same --dataset, or start anew."
        raise CheckpointError("the checkpoint comes from other data", where=str(checkpoint), fix=fix)
    check_state_files(checkpoint)


def _build(
    config: Any, job: PolicyJob, model: Any, tokenizer: Any, data: Dataset, held_out: Dataset | None
) -> QuietTrainer:
    args = copy.copy(config)
    args.max_length = None  # rows that are too long are gone; nothing may be cut
    with tempfile.TemporaryDirectory() as scratch, as_config_errors(job.command):
        args.output_dir = scratch
        trainer = job.make_trainer(model, args, data, held_out, tokenizer)
        trainer.get_optimizer_cls_and_kwargs(args, model)
    return trainer


def _train(trainer: Any, run: Path, checkpoint: Path | None) -> None:
    stop = StopOnSignal()
    for callback in (MetricsFile(run / "metrics.jsonl"), FiniteLoss(), stop):
        trainer.add_callback(callback)
    if checkpoint is not None:
        history = read_json(checkpoint / "trainer_state.json")["log_history"]
        # TRL counts tokens from 0 again.
        trainer._total_train_tokens = int(next((log["num_tokens"] for log in history[::-1] if "num_tokens" in log), 0))
    with stop, quiet_loading(), talking(trainer):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.name:
        raise interrupted(stop.name, trainer.state.global_step, run)


def finish_policy(trainer: Any, run: Path, model: Any, tokenizer: Any, closing: dict[str, Any]) -> None:
    """Write ``policy/`` and the last line of ``metrics.jsonl``, with ``closing`` in it."""
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        with replaced_model(run / "policy") as folder:
            save_policy(model, tokenizer, folder, state_dict=state_dict)
        append_jsonl(run / "metrics.jsonl", {"step": trainer.state.global_step, "finished": True, **closing})
    trainer.accelerator.wait_for_everyone()
