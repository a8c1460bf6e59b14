"""Edited copies of training responses, for objectives that ask for them by name (``--edits``)."""

from __future__ import annotations

from functools import partial

from odin_rm.core.errors import ConfigError
from odin_rm.data.collect import VariantMaker
from odin_rm.evaluation.edits import EDITS
from odin_rm.objectives.registry import make_objective
from odin_rm.reward.config import RewardConfig
from odin_rm.workflows.probe.rows import edited_reply


def edits_of_objective(config: RewardConfig) -> dict[str, VariantMaker]:
    """What makes the edited copies that the objective asks for, by name.

    Raises:
        ConfigError: there is no such edit, or it is the control, which a good reward should mind.
    """
    known = {edit.name: edit for edit in EDITS if not edit.control}
    found: dict[str, VariantMaker] = {}
    for name in make_objective(config.objective, config.objective_settings).variants:
        if name not in known:
            fix = f"Use some of {', '.join(known)}."
            raise ConfigError(f"there is no edit '{name}' that should change no reward", where="--edits", fix=fix)
        found[name] = partial(edited_reply, change=known[name].apply)
    return found
