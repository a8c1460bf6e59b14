"""Direct preference optimisation from a config to a run folder: the body of ``odin-rm dpo``. TRL's trainer, our ids.

The offline baseline of the ODIN paper (Rafailov et al., arXiv 2305.18290): with the log-probs of whole responses, end
token included, under the policy and under the frozen model that it starts from,
``loss = -log sigmoid(beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)))``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from odin_rm.data.demonstrations import EncodedRows, read_comparisons
from odin_rm.workflows.policy.options import DPO_REFUSED, DPOOptions
from odin_rm.workflows.policy.run import PolicyJob, QuietTrainer, train_policy


@dataclass
class DPORunConfig(DPOOptions, DPOConfig):
    """Everything that ``odin-rm dpo`` takes; fields of TRL's ``DPOConfig`` keep their names and meaning."""

    def __post_init__(self) -> None:
        self.check()
        super().__post_init__()


class ComparisonTrainer(QuietTrainer, DPOTrainer):
    """TRL's trainer on rows that are ids already."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


def train_dpo(config: DPORunConfig) -> Path:
    """Train a policy on preferences and write its run folder; its reference is the model that it starts from.

    Args:
        config: the settings; ``model``, ``dataset`` and ``output_dir`` are required.

    Returns:
        The run folder, with ``policy/`` in it.

    Raises:
        OdinError: bad input, a folder that holds another run, a foreign checkpoint, a loss that is not finite.
        RunInterrupted: a signal came; a checkpoint is saved.
    """
    return train_policy(
        config,
        PolicyJob(
            command="dpo",
            refused=DPO_REFUSED,
            read=read_comparisons,
            columns=compared_columns,
            make_trainer=_make_trainer,
        ),
    )


def compared_columns(encoded: EncodedRows) -> dict[str, list[Any]]:
    """``prompt_ids``, ``chosen_ids`` and ``rejected_ids``, as TRL names them."""
    return {
        "prompt_ids": encoded.prompt_ids,
        "chosen_ids": [chosen for chosen, _ in encoded.response_ids],
        "rejected_ids": [rejected for _, rejected in encoded.response_ids],
    }


def _make_trainer(model: Any, args: Any, data: Dataset, held_out: Dataset | None, tokenizer: Any) -> Any:
    adapter = hasattr(model, "peft_config")
    # With an adapter the reference is the model without it.
    reference = None if adapter else copy.deepcopy(model).requires_grad_(False)
    trainer = ComparisonTrainer(
        model=model,
        ref_model=reference,
        args=args,
        train_dataset=data,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )
    if adapter:
        model.delete_adapter("ref")  # TRL's copy of the new adapter, which changes nothing yet
    return trainer
