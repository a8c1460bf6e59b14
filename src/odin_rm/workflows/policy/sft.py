"""Supervised fine-tuning from a config to a run folder: the body of ``odin-rm sft``. TRL's trainer, our ids.

The loss is the mean negative log-likelihood of the response's tokens and its end token; prompts are read, not learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from odin_rm.data.demonstrations import EncodedRows, read_demonstrations
from odin_rm.workflows.policy.options import SFT_REFUSED, SFTOptions
from odin_rm.workflows.policy.run import PolicyJob, QuietTrainer, train_policy

IGNORED = -100
"""The label of a token that no loss is taken of."""


@dataclass
class SFTRunConfig(SFTOptions, SFTConfig):
    """Everything that ``odin-rm sft`` takes; fields of TRL's ``SFTConfig`` keep their names and meaning."""

    def __post_init__(self) -> None:
        self.check()
        super().__post_init__()


class DemonstrationTrainer(QuietTrainer, SFTTrainer):
    """TRL's trainer on rows that are ids and labels already."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


def train_sft(config: SFTRunConfig) -> Path:
    """Train a policy on demonstrations and write its run folder.

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
            command="sft",
            refused=SFT_REFUSED,
            read=read_demonstrations,
            columns=labelled_columns,
            make_trainer=_make_trainer,
        ),
    )


def labelled_columns(encoded: EncodedRows) -> dict[str, list[Any]]:
    """``input_ids`` and ``labels``; the label is the id on the response and its end token, ``IGNORED`` before."""
    pairs = [(prompt, response) for prompt, (response,) in zip(encoded.prompt_ids, encoded.response_ids, strict=True)]
    return {
        "input_ids": [prompt + response for prompt, response in pairs],
        "labels": [[IGNORED] * len(prompt) + response for prompt, response in pairs],
    }


def _make_trainer(model: Any, args: Any, data: Dataset, held_out: Dataset | None, tokenizer: Any) -> Any:
    return DemonstrationTrainer(
        model=model, args=args, train_dataset=data, eval_dataset=held_out, processing_class=tokenizer
    )
