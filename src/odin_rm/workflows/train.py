"""Training a reward model from a config to a run folder: the body of ``odin-rm reward``.

Everything that can be refused is refused before the run folder is touched. The folder then holds ``config.yaml``
(resolved), ``environment.json``, ``metrics.jsonl``, ``checkpoints/`` and at the end ``model/``.
"""

from __future__ import annotations

import copy
import json
import tempfile
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import TrainerCallback, set_seed

from odin_rm.core.errors import CheckpointError, ConfigError, OdinError, OutputError, RunInterrupted
from odin_rm.core.files import (
    append_jsonl,
    atomic_folder,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    check_run_folder,
    claim_run_folder,
    environment_record,
)
from odin_rm.core.ranks import together
from odin_rm.data.load import load_preferences
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.split import split_by_prompt
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.evaluation.audit import CONTRACT_FIGURES, EXTRA_FIGURES, audit_preferences
from odin_rm.model.backbone import check_model_folder, ensure_pad_token, position_table
from odin_rm.model.info import is_reward_model_folder
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import DTYPES, load_tokenizer
from odin_rm.model.storage import ADAPTER_WEIGHTS, HEADS_FILE
from odin_rm.reward.callbacks import MetricsFile, StopOnSignal
from odin_rm.reward.config import REFUSED, RewardConfig
from odin_rm.reward.trainer import SETTINGS_FILE, RewardTrainer, data_note

DEFAULT_MAX_LENGTH = 1024
"""Tokens, as in the paper."""
REFERENCE_RESPONSES = 4096
"""How many responses at most give the reward's mean and deviation."""
BEST_MODEL_METRICS = ("loss", *CONTRACT_FIGURES, *EXTRA_FIGURES)
"""What --metric_for_best_model may name."""


def train_reward_model(config: RewardConfig) -> Path:
    """Train a reward model and write its run folder.

    Args:
        config: the settings; ``model``, ``dataset`` and ``output_dir`` are required.

    Returns:
        The run folder.

    Raises:
        OdinError: bad input, a folder that holds another run, a foreign checkpoint, a loss that is not finite.
        RunInterrupted: a signal came; a checkpoint is saved.
    """
    model_path = _check_required(config)
    run = Path(config.output_dir)
    with together():
        model, tokenizer, checkpoint = _load_model(config, model_path, run)
    # One process of a machine tokenises, the others read its cache. Nothing before it in the block: they wait for it.
    with together(), config.main_process_first(desc="tokenising"):
        train_data, eval_data, skipped_rows = _load_data(config, tokenizer)
    stop = StopOnSignal()
    callbacks: list[TrainerCallback] = [MetricsFile(run / "metrics.jsonl"), stop]
    with together():
        if checkpoint is not None:
            _check_checkpoint(checkpoint, config, train_data)
        trainer = build_trainer(
            config, model, train_data, eval_data=eval_data, tokenizer=tokenizer, callbacks=callbacks
        )
        trainer.args.output_dir = str(run / "checkpoints")
    with together():
        if config.process_index == 0:
            claim_run_folder(run, overwrite=config.overwrite_output_dir, resume=checkpoint is not None)
            (run / "checkpoints").mkdir(exist_ok=True)
            _write_settings(run, config, checkpoint)
            if skipped_rows is not None:
                atomic_write_bytes(run / "skipped_rows.jsonl", skipped_rows)
    with stop:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.stopped:
        raise RunInterrupted(
            f"stopped by {stop.stopped} after step {trainer.state.global_step}, the state is saved",
            where=str(run),
            fix=f"Go on with --resume_from_checkpoint true --output_dir {run}",
        )
    _finish(trainer, config, run)
    return run


def _load_model(config: RewardConfig, model_path: str, run: Path) -> tuple[RewardModel, Any, Path | None]:
    """The model with its tokenizer, and the checkpoint to go on from; refuses an output folder that cannot be used."""
    checkpoint = _resolve_checkpoint(config, run)
    check_run_folder(run, overwrite=config.overwrite_output_dir, resume=checkpoint is not None)
    if not is_reward_model_folder(model_path):
        check_model_folder(model_path)
    tokenizer = load_tokenizer(model_path, trust_remote_code=config.trust_remote_code)
    # The seed decides the heads' first weights; nothing may draw from it in between.
    set_seed(config.seed)
    model = build_model(config, model_path)
    ensure_pad_token(tokenizer, model.config)
    config.max_length = _window(config.max_length, model)
    return model, tokenizer, checkpoint


def _window(max_length: int | None, model: RewardModel) -> int:
    """The longest sequence of the run; a table of learnt positions is never overrun."""
    table = position_table(model.classifier)
    if max_length is None:
        return min(DEFAULT_MAX_LENGTH, table or DEFAULT_MAX_LENGTH)
    if table is not None and max_length > table:
        what = f"is {max_length:,}, but the model has {table:,} positions"
        raise ConfigError(what, where="--max_length", fix=f"Give at most {table}.")
    return max_length


def _load_data(
    config: RewardConfig, tokenizer: Any
) -> tuple[TokenisedPreferences, TokenisedPreferences | None, bytes | None]:
    """Training and held-out data, and the file of rows left out, which waits for its run folder."""
    with tempfile.TemporaryDirectory() as scratch:
        skipped = Path(scratch) / "skipped_rows.jsonl"
        train_data, eval_data = load_data(config, tokenizer, skipped)
        return train_data, eval_data, skipped.read_bytes() if skipped.is_file() else None


def build_trainer(
    config: RewardConfig, model: RewardModel, train_data: TokenisedPreferences, **parts: Any
) -> RewardTrainer:
    """The trainer of a config, made beside the run folder: what the Trainer refuses must not leave half a run.

    Raises:
        ConfigError: an optimiser, a tracker or an engine that is asked for is not installed or cannot work.
    """
    args = copy.copy(config)
    args.push_to_hub = False  # the finished model is uploaded, not every checkpoint
    with tempfile.TemporaryDirectory() as scratch:
        args.output_dir = scratch
        try:
            trainer = RewardTrainer(model, args, train_data, **parts)
            trainer.get_optimizer_cls_and_kwargs(args, model)  # type: ignore[arg-type]
        except (ImportError, RuntimeError, ValueError) as error:
            if isinstance(error, OdinError):
                raise
            what = " ".join(str(error).split())[:300]
            raise ConfigError(what, fix="See odin-rm reward --help.") from error
    return trainer


def build_model(config: RewardConfig, path: str) -> RewardModel:
    """The model that a config asks for: new heads on a backbone, or a saved reward model to go on from."""
    kwargs: dict[str, Any] = {
        "dtype": DTYPES[config.model_dtype],
        "attn_implementation": config.attn_implementation,
        "trust_remote_code": config.trust_remote_code,
    }
    if is_reward_model_folder(path):
        model = RewardModel.from_pretrained(path, trainable=True, **kwargs)
        wanted = {name: getattr(config, name) for name in ("heads", "normalise_heads", "head_scale", "pooling")}
        for name, value in wanted.items():
            if getattr(model.info, name) != value:
                raise ConfigError(
                    f"the reward model was trained with {name} = {getattr(model.info, name)}, this run asks {value}",
                    where=path,
                    fix="Use the same objective and head settings, or start from the backbone.",
                )
        if config.lora_r and not model.is_lora:
            model.add_lora(_findable(path), **_lora(config))
        return model
    heads: dict[str, Any] = {name: getattr(config, name) for name in ("normalise_heads", "head_scale", "pooling")}
    model = RewardModel.from_backbone(path, heads=config.heads, **heads, **kwargs)
    if config.lora_r:
        model.add_lora(_findable(path), **_lora(config))
    return model


def load_data(
    config: RewardConfig, tokenizer: Any, skipped_rows_file: Path
) -> tuple[TokenisedPreferences, TokenisedPreferences | None]:
    """Training and held-out preferences of a config, tokenised (from the cache where it has them)."""
    settings = encoding_settings(config)
    kwargs: dict[str, Any] = {
        "on_bad_row": config.on_bad_row,
        "cache_dir": config.cache_dir,
        "num_proc": config.num_proc,
    }
    assert config.dataset is not None
    data = load_preferences(config.dataset, tokenizer, settings, skipped_rows_file=skipped_rows_file, **kwargs)
    eval_data = None
    if config.eval_dataset is not None:
        eval_data = load_preferences(config.eval_dataset, tokenizer, settings, **kwargs)
    elif config.eval_fraction:
        data, eval_data = split_by_prompt(data, config.eval_fraction, seed=config.seed)
    best = str(config.metric_for_best_model or "loss").removeprefix("eval_")
    if config.load_best_model_at_end and best not in BEST_MODEL_METRICS:
        fix = f"Use one of {', '.join(BEST_MODEL_METRICS)}."
        raise ConfigError(f"there is no figure '{best}'", where="--metric_for_best_model", fix=fix)
    if eval_data is None and str(getattr(config.eval_strategy, "value", config.eval_strategy)) != "no":
        raise ConfigError("needs held-out data", where="--eval_strategy", fix="Give --eval_dataset or --eval_fraction.")
    return data, eval_data


def encoding_settings(config: RewardConfig) -> EncodingSettings:
    """How the run renders and cuts texts; stored with the model."""
    max_length = config.max_length or DEFAULT_MAX_LENGTH
    return EncodingSettings(max_length=max_length, overlong=config.overlong)  # type: ignore[arg-type]


def _finish(trainer: RewardTrainer, config: RewardConfig, run: Path) -> None:
    """Reference statistics, held-out figures and the model folder; every rank takes part in scoring."""
    reference = trainer.eval_data or _sample(trainer.train_data, REFERENCE_RESPONSES)
    scored = trainer.score(reference)
    model, tokenizer = trainer._reward_model(), trainer.processing_class
    audit = {}
    if trainer.eval_data is not None:
        audit = audit_preferences(scored, seed=config.seed).to_json()
        audit["dataset"] = scored.dataset
    model.info = model.info.with_(
        objective=config.objective,
        encoding=vars(encoding_settings(config)),
        reward_mean=float(np.mean(scored.quality)),
        reward_std=float(np.std(scored.quality)),
        reference={"source": scored.dataset, "responses": len(scored.quality), "held_out": bool(trainer.eval_data)},
        audit=audit,
        training=_training_note(trainer, config),
    )
    if trainer.is_world_process_zero():
        with atomic_folder(run / "model", overwrite=True) as folder:
            model.save_pretrained(folder, tokenizer=tokenizer)
        append_jsonl(run / "metrics.jsonl", {"step": trainer.state.global_step, "finished": True})
        if config.push_to_hub:
            _push(model, config, run, tokenizer)
    trainer.accelerator.wait_for_everyone()


def _push(model: RewardModel, config: RewardConfig, run: Path, tokenizer: Any) -> None:
    place = config.hub_model_id or run.name
    try:
        model.push_to_hub(place, tokenizer=tokenizer, private=config.hub_private_repo)
    except Exception as error:  # no network, no token, no permission: the hub's client has many words for it
        what = f"the model is in {run / 'model'}, but it cannot be uploaded ({' '.join(str(error).split())[:200]})"
        raise OutputError(what, where=place, fix="Check the network and the token, and upload that folder.") from error


def _training_note(trainer: RewardTrainer, config: RewardConfig) -> dict[str, Any]:
    names = [
        "objective",
        "learning_rate",
        "head_learning_rate",
        "num_train_epochs",
        "batch_pairs",
        "length_weight",
        "orthogonality_weight",
        "normalise_heads",
        "head_scale",
        "max_length",
        "overlong",
        "seed",
    ]
    note = {"model": Path(str(config.model)).name if Path(str(config.model)).exists() else config.model}
    note |= {name: getattr(config, name) for name in names}
    return note | {"steps": trainer.state.global_step, "pairs": trainer.train_data.num_pairs}


def _sample(data: TokenisedPreferences, size: int) -> TokenisedPreferences:
    """The data set with its first prompts only, up to about ``size`` responses."""
    if data.num_responses <= size:
        return data
    share = size / data.num_responses
    return split_by_prompt(data, share, seed=0)[1]


def _check_required(config: RewardConfig) -> str:
    for name in ("model", "dataset", "output_dir"):
        if not getattr(config, name):
            raise ConfigError("is required", where=f"--{name}", fix="See odin-rm reward --help.")
    assert config.model is not None
    inside = Path(config.model) / "model"
    return str(inside) if is_reward_model_folder(inside) else config.model


def _resolve_checkpoint(config: RewardConfig, run: Path) -> Path | None:
    wanted = config.resume_from_checkpoint
    if wanted is None or str(wanted).lower() in ("false", "no"):
        return None
    if str(wanted).lower() in ("true", "yes", "last"):
        folder = run / "checkpoints"
        found = _last_complete_checkpoint(folder)
        if found is None:
            fix = "Start anew without --resume_from_checkpoint, or check --output_dir."
            raise CheckpointError("there is no checkpoint to go on from", where=str(folder), fix=fix)
        return found
    path = Path(str(wanted))
    if not (path / "trainer_state.json").is_file():
        raise CheckpointError(
            "is not a checkpoint", where=str(path), fix="Give checkpoints/checkpoint-N of a run folder, or 'true'."
        )
    return path


def _last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose last file is there: a run killed while saving leaves a half-written one."""
    if not folder.is_dir():
        return None
    complete = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return max(complete, key=lambda p: int(p.name.split("-")[1]), default=None)


def _check_checkpoint(checkpoint: Path, config: RewardConfig, data: TokenisedPreferences) -> None:
    path = checkpoint / SETTINGS_FILE
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        theirs, their_data = saved["settings"], saved["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "Give checkpoints/checkpoint-N of a run folder."
        raise CheckpointError("is not a checkpoint of odin-rm reward", where=str(checkpoint), fix=fix) from error
    ours = config.trajectory()
    differing = [n for n in sorted(set(ours) | set(theirs)) if ours.get(n) != theirs.get(n)]
    if differing:
        listing = ", ".join(f"{n} ({theirs.get(n)} there, {ours.get(n)} here)" for n in differing[:5])
        raise CheckpointError(
            f"the checkpoint comes from other settings: {listing}",
            where=str(checkpoint),
            fix="Use the settings of the run's config.yaml, or start anew.",
        )
    if their_data != data_note(data):
        raise CheckpointError(
            f"the checkpoint comes from other data ({their_data['pairs']} pairs there, {data.num_pairs} here)",
            where=str(checkpoint),
            fix="Give the same --dataset, or start anew.",
        )
    if not (config.deepspeed or config.fsdp):
        _check_state_files(checkpoint)


def _check_state_files(checkpoint: Path) -> None:
    """Refuse a checkpoint with missing or cut-off files; the Trainer would go on without the optimiser's state."""
    for name in ("optimizer.pt", "scheduler.pt", HEADS_FILE):
        path = checkpoint / name
        # torch writes zip archives, whose table of contents is their end.
        sound = path.is_file() if name == HEADS_FILE else zipfile.is_zipfile(path)
        if not sound:
            what = f"{name} is {'damaged' if path.exists() else 'missing'}, so the run cannot go on from here"
            raise CheckpointError(what, where=str(checkpoint), fix="Give an earlier checkpoint, or start anew.")
    check_model_folder(checkpoint, extra_weight_files=(ADAPTER_WEIGHTS,))


def _write_settings(run: Path, config: RewardConfig, checkpoint: Path | None) -> None:
    atomic_write_text(run / "config.yaml", resolved_yaml(config))
    atomic_write_json(run / "environment.json", environment_record())
    if checkpoint is not None:
        _drop_later_lines(run / "metrics.jsonl", int(checkpoint.name.split("-")[1]))


def resolved_yaml(config: RewardConfig) -> str:
    """The settings as YAML that ``--config`` takes again; secrets and fields without effect are left out."""
    left_out = {*REFUSED, "hub_token", "local_rank", "disable_tqdm"}
    values = {}
    for item in fields(config):
        if item.init and item.name not in left_out:
            value = getattr(config, item.name)
            value = getattr(value, "value", value)
            if not isinstance(value, (bool, int, float, str, list, dict, type(None))):
                value = value.to_dict() if hasattr(value, "to_dict") else str(value)
            if value is not None and not (isinstance(value, (list, dict)) and not value):
                values[item.name] = value
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _drop_later_lines(path: Path, step: int) -> None:
    """Forget what an earlier attempt logged after the checkpoint, so that each step stands once."""
    if path.is_file():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        kept = [line for line in lines if json.loads(line).get("step", 0) <= step]
        atomic_write_text(path, "".join(line + "\n" for line in kept))


def _findable(path: str) -> str:
    """A local folder by its full path: the adapter must find its frozen weights from any working directory."""
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def _lora(config: RewardConfig) -> dict[str, Any]:
    names = config.lora_target_modules.split(",") if config.lora_target_modules else None
    return {"r": config.lora_r, "alpha": config.lora_alpha, "target_modules": names}
