"""One of two processes whose second one runs out of memory once, in a pass that its test names."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks import exactness

from odin_rm.model.reward_model import RewardModel


def main(model: str, output: str, steps: int) -> None:
    """Runs of some steps, one per way to fail; each rank saves weights and budget."""
    original = RewardModel.forward
    for name, grad, kept in (("pass 1", False, 0), ("pass 2", True, 0), ("kept", True, 10**6)):
        trainer = exactness.make_trainer(
            Path(model),
            exactness.make_data(),
            output,
            microbatch_tokens=200,
            batch_layout="tree",
            single_pass_tokens=kept,
            max_steps=steps,
            ddp_backend="gloo",
        )
        raised = [0]

        def forward(self: RewardModel, *args: Any, grad=grad, raised=raised, trainer=trainer, **row: Any) -> Any:
            second_step = trainer.state.global_step == 1 and trainer.args.process_index == 1
            if second_step and torch.is_grad_enabled() == grad and not raised[0]:
                raised[0] = 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(self, *args, **row)

        RewardModel.forward = forward  # type: ignore[method-assign]
        trainer.train()
        RewardModel.forward = original  # type: ignore[method-assign]
        weights = {n: p.detach() for n, p in trainer._reward_model().named_parameters()}
        figures = [trainer.budget.tokens, trainer.budget.kept]
        file = Path(output) / f"{name}-{trainer.args.process_index}.pt"
        torch.save({"weights": weights, "raised": raised[0], "budget": figures}, file)
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # a wrapper still holds the group, and torch may abort when both go as the program ends


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
