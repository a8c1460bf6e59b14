"""Training a reward model from a config to a run folder: the body of ``odin-rm reward``.

Everything that can be refused is refused before the run folder is touched. The folder then holds ``config.yaml``
(resolved), ``environment.json``, ``data_report.json`` (what of the rows was used), ``metrics.jsonl``,
``checkpoints/`` and at the end ``model/``.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, set_seed

from odin_rm.core.errors import CheckpointError, ConfigError, OdinError, OutputError
from odin_rm.core.files import append_jsonl, atomic_write_bytes, atomic_write_json
from odin_rm.core.ranks import fail_on_all_ranks
from odin_rm.core.reading import read_bytes
from odin_rm.data.attributes import Attribute, attributes_of_text
from odin_rm.data.dial import CALIBRATION_FILE
from odin_rm.data.load import load_preferences
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.split import split_by_prompt
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.evaluation.audit import CONTRACT_FIGURES, EXTRA_FIGURES, audit_preferences
from odin_rm.model.backbone import check_model_folder, check_token_ids, position_table
from odin_rm.model.info import RewardModelInfo, is_reward_model_folder
from odin_rm.model.pad_token import ensure_sound_pad_token
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.saved_reading import saved_settings
from odin_rm.model.scoring import DTYPES, load_tokenizer
from odin_rm.model.storage import ADAPTER_WEIGHTS, HEADS_FILE
from odin_rm.objectives.flags import foreign_options
from odin_rm.objectives.registry import OBJECTIVES, make_objective
from odin_rm.reward.config import REFUSED, RewardConfig
from odin_rm.reward.features import features_digest
from odin_rm.reward.frozen import as_rows
from odin_rm.reward.trainer import SETTINGS_FILE, RewardTrainer, data_note
from odin_rm.runs.callbacks import MetricsFile, StopOnSignal
from odin_rm.runs.data_record import DATA_FILE, Records, data_record, say_data
from odin_rm.runs.output_folder import OutputFolder, replaced_model
from odin_rm.runs.run_folder import (
    Start,
    check_required,
    check_same_settings,
    check_state_files,
    interrupted,
    read_note,
    write_settings,
)
from odin_rm.runs.talk import talking
from odin_rm.workflows.reward.edits import edits_of_objective
from odin_rm.workflows.reward.head_scale import choose_head_scale
from odin_rm.workflows.reward.plan import RewardPlan, plan_reward_run
from odin_rm.workflows.reward.trainers import build_head_trainer, build_trainer, features_precision

log = logging.getLogger(__name__)
DEFAULT_MAX_LENGTH = 1024
"""Tokens, as in the paper."""
DEFAULT_READ_AT = "end_of_turn"
"""Where a policy stops, and so the last token that every tool of reinforcement learning sends."""
REFERENCE_RESPONSES = 4096
"""How many responses at most give the reward's mean and deviation."""
BEST_MODEL_METRICS = ("loss", *CONTRACT_FIGURES, *EXTRA_FIGURES)
"""What --metric_for_best_model may name, besides the metrics of the objective."""


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
    with OutputFolder(config.output_dir, "reward", overwrite=config.overwrite_output_dir) as output:
        return _train(config, model_path, output)


def _train(config: RewardConfig, model_path: str, output: OutputFolder) -> Path:
    run = output.path
    with fail_on_all_ranks():
        model, tokenizer, start = _load_model(config, model_path, output)
    # One process of a machine tokenises, the others read its cache. Nothing before it in the block: they wait for it.
    with fail_on_all_ranks(), config.main_process_first(desc="tokenising"):
        train_data, eval_data, skipped_rows = _load_data(config, tokenizer)
    records = data_records(train_data, eval_data)
    say_data(records)
    with fail_on_all_ranks():
        if config.calibrate is not None and config.process_index == 0:
            _check_dial_rows(config, run)
    stop = StopOnSignal()
    callbacks: list[TrainerCallback] = [MetricsFile(run / "metrics.jsonl"), stop]
    with fail_on_all_ranks():
        for data in filter(None, (train_data, eval_data)):
            check_token_ids(model.classifier, [data.input_ids_flat], where=data.source)
        config.head_scale = choose_head_scale(config, model, train_data, int(tokenizer.pad_token_id), model_path)
        model.set_head_scale(config.head_scale)
        start = start.verified(lambda checkpoint: _check_checkpoint(checkpoint, config, model, train_data))
        if start.nothing_left(config, REFUSED):
            return run
        parts: dict[str, Any] = {"eval_data": eval_data, "tokenizer": tokenizer, "callbacks": callbacks}
        if config.train == "heads":
            trainer: RewardTrainer = build_head_trainer(config, model, train_data, **parts)
        else:
            trainer = build_trainer(config, model, train_data, **parts)
        trainer.args.output_dir = str(run / "checkpoints")
    with fail_on_all_ranks():
        if config.process_index == 0:
            start.claim()
            write_settings(run, config, REFUSED, start.checkpoint)
            atomic_write_json(run / DATA_FILE, records)
            if skipped_rows is not None:
                atomic_write_bytes(run / "skipped_rows.jsonl", skipped_rows)
    trainer.add_callback(NotePlan(trainer, run / "metrics.jsonl"))
    with stop, talking(trainer):
        trainer.train(resume_from_checkpoint=str(start.checkpoint) if start.checkpoint else None)
    if stop.name:
        raise interrupted(stop.name, trainer.state.global_step, run)
    _finish(trainer, config, run)
    if config.process_index == 0:
        output.complete()
        if config.calibrate is not None:
            _calibrate(config, run)
    return run


def _calibrate(config: RewardConfig, run: Path) -> None:
    """The dial of the finished model, beside its weights; a run whose dial cannot be fitted is still complete."""
    from odin_rm.workflows.calibrate.run import run_calibrate

    try:
        (content,) = run_calibrate(_dial_settings(config, run)).values()
    except OdinError as error:
        fix = f"{error.fix} The trained model is in {run / 'model'}; odin-rm calibrate does this step alone."
        raise type(error)(error.what, where=error.where or "--calibrate", fix=fix) from error
    kappa = content["kappa"]["value"]
    log.info("calibrated by %s: kappa %.2f, %s", config.calibrate, kappa, run / "model" / CALIBRATION_FILE)
    for warning in content["warnings"]:
        log.warning("calibration: %s", warning)


def _check_dial_rows(config: RewardConfig, run: Path) -> None:
    """Refuse rows and twins that the dial cannot be fitted on before the training, not behind it."""
    from odin_rm.workflows.calibrate.rows import read_material

    try:
        read_material(_dial_settings(config, run))
    except OdinError as error:
        fix = error.fix.replace("--twins", "--calibrate_twins")
        raise type(error)(error.what, where=error.where or "--calibrate", fix=fix) from error


def _dial_settings(config: RewardConfig, run: Path) -> Any:
    from odin_rm.workflows.calibrate.config import CalibrateConfig

    assert config.calibrate is not None  # checked by the callers
    return CalibrateConfig(
        anchor=config.calibrate,
        model=str(run / "model"),
        dataset=config.eval_dataset or config.dataset,
        output=str(run / "model"),
        twins=config.calibrate_twins,
        columns=config.columns,
        on_bad_row=config.on_bad_row,  # type: ignore[arg-type]
        device=str(config.device),
        trust_remote_code=config.trust_remote_code,
        attn_implementation=config.attn_implementation,
        seed=config.seed,
    )


class NotePlan(TrainerCallback):
    """Writes down how micro-batches are made, before the first step: a row of ``metrics.jsonl`` and a line of the log.

    Args:
        trainer: what knows it by then.
        path: the file.
    """

    def __init__(self, trainer: RewardTrainer, path: Path) -> None:
        self.trainer, self.path = trainer, path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write it, the main process only."""
        if not state.is_world_process_zero:
            return
        layout, budget = self.trainer.layout, self.trainer.budget
        row = {"batch_layout": layout.layout, "tree_attention": layout.kernel, "layout_why": layout.why}
        sizes = {"microbatch_tokens": budget.tokens, "single_pass_tokens": budget.kept, "microbatch_why": budget.why}
        products = {"cpu_products": self.trainer.matmul} if args.device.type == "cpu" else {}
        append_jsonl(self.path, {"step": state.global_step, **row, **sizes, **products})
        kernel = f", {layout.kernel} attention" if layout.kernel else ""
        log.info("batch layout: %s%s (%s)", layout.layout, kernel, layout.why)
        log.info("micro-batches: up to %s tokens (%s)", f"{budget.tokens:,}", budget.why)


def _load_model(config: RewardConfig, model_path: str, output: OutputFolder) -> tuple[RewardModel, Any, Start]:
    """The model with its tokenizer, and where to begin; refuses an output folder that cannot be used."""
    start = Start.find(output, config.resume_from_checkpoint)
    if not is_reward_model_folder(model_path):
        check_model_folder(model_path)
    tokenizer = load_tokenizer(model_path, trust_remote_code=config.trust_remote_code)
    # The seed decides the heads' first weights; nothing may draw from it in between.
    set_seed(config.seed)
    model = build_model(config, model_path)
    _prepare_texts(config, model.classifier, tokenizer, model_path)
    model.grow_vocabulary(int(tokenizer.pad_token_id) + 1)
    return model, tokenizer, start


def choose_reading(config: RewardConfig, model_config: Any, tokenizer: Any, path: str) -> str:
    """Where the run reads: as asked, else where a saved reward model was read, else at the end of the turn.

    Raises:
        ModelError: the saved model does not say where it was read.
        ConfigError: it was read before its pad token, which no new model is.
    """
    if not is_reward_model_folder(path):
        return config.read_at or DEFAULT_READ_AT
    saved = saved_settings(RewardModelInfo.load(path), tokenizer, model_config, path).read_at
    if saved == "before_pad":
        fix = "Train from the backbone."
        raise ConfigError("training does not go on from a model that is read before its pad token", where=path, fix=fix)
    return config.read_at or saved


def plan_run(config: RewardConfig) -> RewardPlan:
    """The plan of a run, without its weights and without a run folder (``--dry_run``).

    Raises:
        OdinError: bad input, as the run itself would refuse it.
    """
    model_path = _check_required(config)
    with fail_on_all_ranks(), config.main_process_first(desc="tokenising"):
        return plan_reward_run(config, model_path, load_data, _prepare_texts, data_records)


def _prepare_texts(config: RewardConfig, classifier: Any, tokenizer: Any, path: str) -> None:
    """Settle where the run reads, with it the pad token, and the window."""
    config.read_at = choose_reading(config, classifier.config, tokenizer, path)
    ensure_sound_pad_token(tokenizer, classifier.config, encoding_settings(config))
    config.max_length = _window(config.max_length, classifier)


def _window(max_length: int | None, classifier: Any) -> int:
    """The longest sequence of the run; a table of learnt positions is never overrun."""
    table = position_table(classifier)
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
        return train_data, eval_data, read_bytes(skipped) if skipped.is_file() else None


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
            if value is not None and getattr(model.info, name) != value:
                raise ConfigError(
                    f"the reward model was trained with {name} = {getattr(model.info, name)}, this run asks {value}",
                    where=path,
                    fix="Use the same objective and head settings, or start from the backbone.",
                )
        if config.lora_r and not model.is_lora:
            model.add_lora(_findable(path), **_lora(config))
        return model
    heads: dict[str, Any] = {name: getattr(config, name) for name in ("normalise_heads", "pooling")}
    model = RewardModel.from_backbone(path, heads=config.heads, head_scale=config.head_scale or 1.0, **heads, **kwargs)
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
        "columns": config.columns,
        "measured": attributes_of_objective(config),
        "variants": edits_of_objective(config),
    }
    assert config.dataset is not None
    data = load_preferences(config.dataset, tokenizer, settings, skipped_rows_file=skipped_rows_file, **kwargs)
    eval_data = None
    if config.eval_dataset is not None:
        eval_data = load_preferences(config.eval_dataset, tokenizer, settings, **kwargs)
    elif config.eval_fraction:
        data, eval_data = split_by_prompt(data, config.eval_fraction, seed=config.seed)
    best = str(config.metric_for_best_model or "loss").removeprefix("eval_")
    known = dict.fromkeys([*BEST_MODEL_METRICS, *(one.name for one in OBJECTIVES[config.objective].metrics)])
    if best not in known:
        fix = f"Use one of {', '.join(known)}."
        raise ConfigError(f"there is no figure '{best}'", where="--metric_for_best_model", fix=fix)
    if eval_data is None and str(getattr(config.eval_strategy, "value", config.eval_strategy)) != "no":
        raise ConfigError("needs held-out data", where="--eval_strategy", fix="Give --eval_dataset or --eval_fraction.")
    return data, eval_data


def attributes_of_objective(config: RewardConfig) -> list[Attribute]:
    """The attributes that the objective reads beside the response tokens, to be measured of the texts.

    Raises:
        ConfigError: there is no such attribute, or it is none of the text.
    """
    names = make_objective(config.objective, config.objective_settings).attributes
    return attributes_of_text(names, "--match_attributes")


def data_records(train_data: TokenisedPreferences, eval_data: TokenisedPreferences | None) -> Records:
    """What of the rows is used, by use; held-out prompts of the training rows are within their counts."""
    records = {"train": data_record(train_data.report, train_data.source)}
    if eval_data is not None and eval_data.report is not train_data.report:
        records["eval"] = data_record(eval_data.report, eval_data.source)
    return records


def encoding_settings(config: RewardConfig) -> EncodingSettings:
    """How the run renders and cuts texts; stored with the model."""
    max_length = config.max_length or DEFAULT_MAX_LENGTH
    read_at = config.read_at or DEFAULT_READ_AT
    return EncodingSettings(max_length=max_length, overlong=config.overlong, read_at=read_at)  # type: ignore[arg-type]


def _finish(trainer: RewardTrainer, config: RewardConfig, run: Path) -> None:
    """Reference statistics, held-out figures and the model folder; every rank takes part in scoring."""
    reference = trainer.eval_data or _sample(trainer.train_data, REFERENCE_RESPONSES)
    scored = trainer.score(reference)
    model, tokenizer = trainer.trained_model(), trainer.processing_class
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
        with replaced_model(run / "model") as folder:
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
        "train",
        "learning_rate",
        "head_learning_rate",
        "num_train_epochs",
        "batch_pairs",
        *OBJECTIVES[config.objective].options,
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
    check_required(config, ("model", "dataset", "output_dir"), "reward")
    assert config.model is not None
    inside = Path(config.model) / "model"
    return str(inside) if is_reward_model_folder(inside) else config.model


def _check_checkpoint(checkpoint: Path, config: RewardConfig, model: RewardModel, data: TokenisedPreferences) -> None:
    theirs, their_data = read_note(checkpoint, SETTINGS_FILE, "reward")
    # A checkpoint from before there was a choice was read at the template's own end.
    # An option of other objectives decides nothing, and a checkpoint may be older than it.
    theirs = {name: value for name, value in theirs.items() if name not in foreign_options(config.objective)}
    check_same_settings(checkpoint, config.trajectory(), {"read_at": "end", "train": "all", **theirs})
    ours = data_note(as_rows(data) if config.train == "heads" else data)
    if any(their_data.get(name, value) != value for name, value in ours.items()):  # earlier ones have fewer
        there, here = their_data["pairs"], data.num_pairs
        counts = f"{there} pairs there, {here} here" if there != here else f"as many pairs, {here}, of other texts"
        fix = "Give the same --dataset, or start anew."
        raise CheckpointError(f"the checkpoint comes from other data ({counts})", where=str(checkpoint), fix=fix)
    if their_data.get("features"):
        digest = features_digest(model, data, features_precision(config))
        if digest != their_data["features"]:
            what = "the checkpoint holds heads for other features: the weights of --model or the texts have changed"
            fix = "Give the same model and --dataset, or start anew."
            raise CheckpointError(what, where=str(checkpoint), fix=fix)
    if not (config.deepspeed or config.fsdp):
        check_state_files(checkpoint, (HEADS_FILE,))
        if config.train == "all":
            check_model_folder(checkpoint, extra_weight_files=(ADAPTER_WEIGHTS,))


def _findable(path: str) -> str:
    """A local folder by its full path: the adapter must find its frozen weights from any working directory."""
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def _lora(config: RewardConfig) -> dict[str, Any]:
    names = config.lora_target_modules.split(",") if config.lora_target_modules else None
    return {"r": config.lora_r, "alpha": config.lora_alpha, "target_modules": names}
