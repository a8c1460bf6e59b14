"""From the words of ``--reward`` to a reward source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from odin_rm.core.errors import ConfigError
from odin_rm.rl.records import RewardSource
from odin_rm.rl.sources.callable import CallableSource, load_function
from odin_rm.rl.sources.http import HttpSource
from odin_rm.rl.sources.length import LengthSource
from odin_rm.rl.sources.model import ModelSource

LENGTH_ONLY = "length_only"
# By name: the testbed sits above this package.
ALIASES = {"gold": "odin_rm.testbed.gold:true_quality"}
_FUNCTION = re.compile(r"(?P<place>.+):(?P<name>[A-Za-z_]\w*)")


def load_reward_source(
    spec: str,
    *,
    policy_tokenizer: Any = None,
    chat_template: str | None = None,
    device: Any = None,
    microbatch_tokens: int = 16384,
    trust_remote_code: bool = False,
    calibration: str | None = None,
    timeout: float = 180.0,
    retries: int = 5,
) -> RewardSource:
    """The source that a specification means.

    Args:
        spec: ``length_only``; ``gold``, the testbed's truth; an http(s) address; ``file.py:function`` or
            ``module:function`` in the signature of TRL's ``reward_funcs``; otherwise a model folder, a reward run's
            folder or a hub id.
        policy_tokenizer: what an address is told the policy's prompts and responses with (plain text without it).
        chat_template: the policy's, where it is not its tokenizer's own; for an address.
        device: where a model runs; default CUDA where there is one.
        microbatch_tokens: padded tokens per forward pass of a model.
        trust_remote_code: run code that comes with a model.
        calibration: of a model: ``none`` or a calibration.json; default the one beside it.
        timeout: seconds that one answer of an address may take.
        retries: further tries after an address did not answer.

    Raises:
        ConfigError, ModelError: a model that cannot be loaded, or that has several labels; a calibration without one.
        RewardSourceError: a function that cannot be imported, or an address that is none.
    """
    function = None if Path(spec).exists() else _FUNCTION.fullmatch(spec)
    other = spec == LENGTH_ONLY or spec in ALIASES or spec.startswith(("http://", "https://")) or function is not None
    if other and calibration not in (None, "none"):
        what = f"belongs to a reward model, and '{spec}' is none"
        raise ConfigError(what, where="--calibration", fix="Leave it out.")
    if spec == LENGTH_ONLY:
        return LengthSource()
    if spec in ALIASES:
        return CallableSource(load_function(*ALIASES[spec].split(":")), name=spec)
    if spec.startswith(("http://", "https://")):
        return HttpSource(
            spec, policy_tokenizer=policy_tokenizer, chat_template=chat_template, timeout=timeout, retries=retries
        )
    if function is not None:
        return CallableSource(load_function(function["place"], function["name"]))
    return ModelSource.load(
        spec,
        device=None if device is None else str(device),
        microbatch_tokens=microbatch_tokens,
        trust_remote_code=trust_remote_code,
        calibration=calibration,
    )
