"""A reinforcement-learning run from a config to a run folder: the body of ``odin-rm rl``.

The folder holds ``config.yaml`` (resolved), ``environment.json``, ``data_report.json`` (what of the prompts was used),
``metrics.jsonl``, ``samples.jsonl``, ``checkpoints/`` and at the end ``policy/``.
"""

from __future__ import annotations

from pathlib import Path

from odin_rm.rl.config import OWN_ALGORITHMS, RLConfig
from odin_rm.runs.run_folder import check_required


def train_policy(config: RLConfig) -> Path:
    """Train a policy and write its run folder.

    Args:
        config: the settings; ``model``, ``reward``, ``prompts`` and ``output_dir`` are required.

    Returns:
        The run folder.

    Raises:
        OdinError: bad input, a folder that holds another run, a foreign checkpoint, a reward source that fails.
        RunInterrupted: a signal came; a checkpoint is saved.
    """
    check_required(config, ("model", "reward", "prompts", "output_dir"), "rl")
    # Each branch imports what it needs only: TRL takes seconds.
    if config.algorithm in OWN_ALGORITHMS:
        from odin_rm.workflows.rl.own import run_own

        return run_own(config)
    from odin_rm.workflows.rl.trl import run_trl

    return run_trl(config)
