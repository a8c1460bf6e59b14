"""What a reward run does beside its steps: its start, plans of epochs and the meter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from odin_rm.reward.loader import BatchSizes, PlannedBatches, RankBatch


class PlanEpochs(TrainerCallback):
    """Tells the planned batches which epoch begins (also where a run is resumed in the middle of one)."""

    def __init__(self, batches: PlannedBatches) -> None:
        self.batches = batches

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Plan the epoch that begins."""
        self.batches.set_epoch(state.global_step // len(self.batches))


class BeforeTraining(TrainerCallback):
    """Calls a function when model and optimiser are in place and before the loader's workers start.

    Args:
        function: what to call.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Call it."""
        self.function()


class StepMeter:
    """Collects the metrics of the objective between two logs; the log gets their means (sums of counts) and rates."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._counts: set[str] = set()
        self._seconds = 0.0
        self._scoring = 0.0
        self._pairs = 0
        self._sizes: list[BatchSizes] = []

    def add(
        self,
        metrics: Mapping[str, Tensor | float],
        batch: RankBatch,
        *,
        seconds: float,
        scoring_seconds: float = 0.0,
    ) -> None:
        """Record one step and how long it took, the pass that only scores (0 where there is none) included."""
        self._counts |= {name for name, value in metrics.items() if _is_count(value)}
        row = {name: float(value) for name, value in metrics.items()}
        self._rows.append(row | {"responses": float(len(batch.tokens_R))})
        self._seconds += seconds
        self._scoring += scoring_seconds
        self._pairs += len(batch.chosen_B)
        self._sizes.append(batch.sizes)

    def state(self) -> dict[str, Any]:
        """What was recorded since the last call of :meth:`drain`, as JSON has it."""
        sizes = [asdict(one) for one in self._sizes]
        times = [self._seconds, self._scoring]
        return {
            "rows": self._rows,
            "counts": sorted(self._counts),
            "times": times,
            "pairs": self._pairs,
            "sizes": sizes,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        # JSON has no word for NaN.
        self._rows = [{name: math.nan if v is None else v for name, v in row.items()} for row in state["rows"]]
        self._counts, self._pairs = set(state["counts"]), int(state["pairs"])
        self._seconds, self._scoring = state["times"]
        self._sizes = [BatchSizes(**one | {"round_tokens": tuple(one["round_tokens"])}) for one in state["sizes"]]

    def drain(self) -> dict[str, Any]:
        """Means and counts since the last call; rates, and what sharing and padding did."""
        if not self._rows:
            return {}
        out: dict[str, Any] = {}
        for name in dict.fromkeys(name for row in self._rows for name in row):
            values = [row[name] for row in self._rows if name in row]
            mean = sum(values) / len(values)
            # A model without a length head has no such correlation: null in the file, not NaN.
            out[name] = int(sum(values)) if name in self._counts else None if mean != mean else mean
        out["pairs"] = self._pairs
        out["pairs_per_second"] = self._pairs / self._seconds
        slots, whole, distinct, computed = (
            sum(getattr(sizes, name) for sizes in self._sizes)
            for name in ("slot_tokens", "response_tokens", "distinct_tokens", "computed_tokens")
        )
        out["tokens_per_second"] = whole / self._seconds
        out["distinct_tokens_per_second"] = distinct / self._seconds
        out["token_reuse"] = slots / computed
        out["padding_share"] = 1 - distinct / computed
        out["micro_batches"] = sum(sizes.micro_batches for sizes in self._sizes) / len(self._sizes)
        out["scoring_pass_seconds"] = self._scoring / len(self._sizes)
        out["scoring_pass_share"] = self._scoring / self._seconds
        self.__init__()  # type: ignore[misc]
        return out


def _is_count(value: Tensor | float) -> bool:
    return not value.is_floating_point() if isinstance(value, Tensor) else isinstance(value, int)
