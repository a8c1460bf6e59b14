"""Checkpoints of a run: a folder appears whole or not at all, and going on from it is exact.

``checkpoint-N`` holds the trained weights (safetensors), the optimiser and the schedule, each rank's random state and
replay buffer, and ``state.json``. Engines that shard the model write their own files beside it.
"""

from __future__ import annotations

import math
import os
import random
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from odin_rm.core.errors import CheckpointError, OutputError
from odin_rm.core.files import atomic_write_json, dump_json
from odin_rm.core.ranks import fail_on_all_ranks
from odin_rm.core.reading import parse_json, read_json
from odin_rm.core.system import writing
from odin_rm.rl.experience import Experience, load_experiences, save_experiences
from odin_rm.rl.learn import Learner
from odin_rm.rl.ranks import Ranks
from odin_rm.runs.checkpoints import GO_ON, numbered_checkpoints, write_digests

STATE_FILE = "state.json"


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        step: optimiser steps done.
        prompts_used: prompts given out so far, over all ranks: the position in the data.
        samples: responses learnt from so far, over all ranks.
        kl_coef: ``beta``, as far as an adaptive one has moved.
        plan: for each minibatch that is still to come from the buffer, this rank's positions in it.
        shaping: mean and deviation of the quality reward, where they were measured on the reference policy.
        watch: what the hacking watch has seen.
        closed: the step up to which all that is due after a step is done: logged, looked at, written. What a failure
            left open is done by the run that goes on. ``None`` in checkpoints of earlier versions, where it was done.
        collected: figures of a collection from which no step has learnt yet.
        open_rows: figures of the steps since the last log.
        unwritten: rows that are still to be written, each with its file, in order.
        written: rows that each file had when the checkpoint was made; later ones are of steps that come again.
    """

    step: int = 0
    prompts_used: int = 0
    samples: int = 0
    kl_coef: float = 0.0
    plan: list[list[int]] = field(default_factory=list)
    shaping: dict[str, float] | None = None
    watch: dict[str, Any] | None = None
    closed: int | None = None
    collected: dict[str, float] | None = None
    open_rows: list[dict[str, float]] = field(default_factory=list)
    unwritten: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)


_SINCE = ("closed", "collected", "open_rows", "unwritten", "written")
"""Fields that checkpoints of earlier versions do not have."""


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of every generator that a step draws from."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": list(random.getstate()[1]),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Put every generator back; the reverse of :func:`random_states`."""
    torch.set_rng_state(states["torch"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    random.setstate((3, tuple(states["python"]), None))
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def save_checkpoint(
    folder: Path,
    learner: Learner,
    ranks: Ranks,
    state: RunState,
    buffer: list[Experience],
    random_state: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Write ``folder`` beside itself and move it into place, all ranks together.

    Raises:
        OutputError: the disk is full or the place cannot be written; earlier checkpoints are untouched.
    """
    draft = folder.with_name(f".{folder.name}.tmp")
    try:
        with fail_on_all_ranks(), writing(folder, kept=GO_ON):
            if ranks.rank == 0:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
        with fail_on_all_ranks(), writing(folder, kept=GO_ON):
            _save_weights(draft, learner, ranks)
            if buffer:
                save_experiences(buffer, draft / f"buffer_{ranks.rank}")
            torch.save(random_state, draft / f"random_{ranks.rank}.pt")
            atomic_write_json(draft / f"plan_{ranks.rank}.json", state.plan)
        with fail_on_all_ranks(), writing(folder, kept=GO_ON):
            if ranks.rank == 0:
                whole = asdict(state) | {"plan": None, "settings": settings, "ranks": ranks.size}
                atomic_write_json(draft / STATE_FILE, whole)
                write_digests(draft)
                _move_into_place(draft, folder)
    except OutputError:
        if ranks.rank == 0:
            shutil.rmtree(draft, ignore_errors=True)
        raise


def _move_into_place(draft: Path, folder: Path) -> None:
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(draft, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(draft, folder)


def load_checkpoint(
    folder: Path, learner: Learner, ranks: Ranks, settings: dict[str, Any], device: torch.device
) -> tuple[RunState, list[Experience]]:
    """Put weights, optimiser, schedule and random states back, and return where the run was and its buffer.

    Raises:
        CheckpointError: the folder is damaged, or belongs to a run with other settings or another number of ranks.
    """
    whole = read_state(folder)
    check_settings(folder, whole, settings, ranks.size)
    try:
        load_weights(folder, learner)
        random_state = torch.load(folder / f"random_{ranks.rank}.pt", weights_only=True)
        has_buffer = (folder / f"buffer_{ranks.rank}.json").is_file()
        buffer = load_experiences(folder / f"buffer_{ranks.rank}") if has_buffer else []
        plan = read_json(folder / f"plan_{ranks.rank}.json")
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        what = f"the checkpoint is damaged ({' '.join(str(error).split())[:200]})"
        raise CheckpointError(
            what, where=str(folder), fix="Go on from an earlier checkpoint, or start anew."
        ) from error
    set_random_states(random_state, device)
    known = {name: whole[name] for name in RunState.__dataclass_fields__ if name in whole}
    state = RunState(**(known | {"plan": plan}))
    if state.closed is None:
        state.closed = state.step
    # JSON has no word for NaN.
    state.open_rows = [{n: math.nan if v is None else v for n, v in row.items()} for row in state.open_rows]
    if state.collected is not None:
        state.collected = {n: math.nan if v is None else v for n, v in state.collected.items()}
    return state, buffer


def read_state(folder: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    try:
        whole = read_json(folder / STATE_FILE)
        if not {"settings", "ranks", *RunState.__dataclass_fields__} - set(_SINCE) <= set(whole):
            raise ValueError("not all is there")
        return dict(whole)
    except (ValueError, TypeError) as error:
        fix = "Give checkpoints/checkpoint-N of a run folder, or 'true' for the newest."
        raise CheckpointError("is not a checkpoint of odin-rm rl", where=str(folder), fix=fix) from error


def check_settings(folder: Path, whole: dict[str, Any], settings: dict[str, Any], ranks: int) -> None:
    """Refuse a checkpoint of a run that would not have gone the same way."""
    theirs = whole["settings"]
    ours = parse_json(dump_json(settings))
    names = sorted(set(ours) | set(theirs))
    differing = [n for n in names if ours.get(n) != theirs.get(n)]
    if differing:
        listing = ", ".join(f"{n} ({theirs.get(n)} there, {ours.get(n)} here)" for n in differing[:5])
        what = f"the checkpoint comes from other settings: {listing}"
        fix = "Use the settings of the run's config.yaml, or start anew."
        raise CheckpointError(what, where=str(folder), fix=fix)
    if whole["ranks"] != ranks:
        what = f"the checkpoint was written by {whole['ranks']} processes, these are {ranks}"
        raise CheckpointError(what, where=str(folder), fix="Start as many processes as before.")


def delete_old_checkpoints(folder: Path, keep: int) -> None:
    """Keep the newest ``keep`` checkpoints, and the watch's best one; drafts that a kill left behind go too."""
    for draft in folder.glob(".checkpoint-*.tmp"):
        shutil.rmtree(draft, ignore_errors=True)
    for path in numbered_checkpoints(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def _save_weights(draft: Path, learner: Learner, ranks: Ranks) -> None:
    if learner.ranks.sharded:
        learner.accelerator.save_state(str(draft / "engine"))
    elif ranks.rank == 0:
        trained = {n: p.detach().cpu().contiguous() for n, p in _trained(learner)}
        save_file(trained, draft / "weights.safetensors")
        torch.save(learner.optimiser.state_dict(), draft / "optimiser.pt")
    if ranks.rank == 0:
        atomic_write_json(draft / "scheduler.json", learner.scheduler.state_dict())


def load_weights(folder: Path, learner: Learner) -> None:
    """Put weights, optimiser and schedule of a checkpoint back."""
    if learner.ranks.sharded:
        learner.accelerator.load_state(str(folder / "engine"))
    else:
        tensors = load_file(folder / "weights.safetensors")
        for name, parameter in _trained(learner):
            parameter.data.copy_(tensors[name])
        state = torch.load(folder / "optimiser.pt", map_location="cpu", weights_only=True)
        learner.optimiser.load_state_dict(state)
    learner.scheduler.load_state_dict(read_json(folder / "scheduler.json"))


def _trained(learner: Learner) -> list[tuple[str, torch.nn.Parameter]]:
    return [(n, p) for n, p in learner.plain_model.named_parameters() if p.requires_grad]
