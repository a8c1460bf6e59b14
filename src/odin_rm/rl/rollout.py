"""Responses of the current policy, written by transformers' ``generate`` with the very weights that are trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation import GenerateDecoderOnlyOutput

from odin_rm.core.errors import ConfigError
from odin_rm.data.batching import plan_microbatches
from odin_rm.model.backbone import position_table
from odin_rm.model.policy import base_policy, collate_responses
from odin_rm.rl.records import Rollout, SamplingSettings

FEW_ROWS = 16
"""A smaller batch is not thinned out: a new start would cost more than its rows that have ended."""
CACHE = "cache" if "cache" in GenerateDecoderOnlyOutput.__dataclass_fields__ else "past_key_values"
"""What ``generate`` takes and gives the cache as; transformers has renamed it."""


class TransformersEngine:
    """A :class:`odin_rm.rl.records.RolloutEngine` on the policy's own weights; there is nothing to update.

    Prompts are sorted by length and written to in batches under a token budget, padded on the left; rows that have
    ended leave their batch. What the model's generation config says (a nucleus, a repetition penalty, ...) is left
    aside, so that samples come from the distribution whose log-probs are trained. Sampling draws from torch's global
    generator.

    Args:
        model: the policy, in whatever accelerate has wrapped it.
        tokenizer: the policy's.
        rollout_tokens: most padded tokens of a batch, prompts and longest responses.
        end_token_ids: tokens that end a response.
        precision: makes the context to write in: ``accelerator.autocast``, so that samples come from the very numbers
            that training sees.
        synced: ranks hold parts of each layer (FSDP, ZeRO 3), so all of them must write until the last one is done.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        rollout_tokens: int,
        end_token_ids: Collection[int],
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
        synced: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.precision = model, tokenizer, precision
        self.rollout_tokens, self.synced = rollout_tokens, synced
        self.end_token_ids = set(end_token_ids)

    def update_weights(self, model: Any) -> None:
        """Nothing: the weights are the policy's own."""

    @torch.no_grad()
    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: SamplingSettings,
        *,
        greedy: Sequence[bool] | None = None,
    ) -> list[Rollout]:
        """One response per prompt, in order.

        Args:
            prompt_ids: unpadded ids of each prompt.
            sampling: how to write.
            greedy: rows that take the most likely token each time; they may stand beside sampled ones.

        Raises:
            ConfigError: the longest prompt and response do not fit the policy's table of positions.
        """
        policy = base_policy(self.model)
        _check_fits(policy, prompt_ids, sampling.max_new_tokens)
        greedy = [False] * len(prompt_ids) if greedy is None else greedy
        rollouts: dict[int, Rollout] = {}
        lengths = np.array([len(ids) + sampling.max_new_tokens for ids in prompt_ids])
        batches = plan_microbatches(lengths, self.rollout_tokens)[0]
        more = self._batches_of_others(len(batches), policy.device)
        was_training, live_config = policy.training, policy.generation_config
        policy.eval()
        policy.generation_config = GenerationConfig()  # generate() would fill gaps from the model's own
        try:
            for batch in batches:
                positions = [int(i) for i in batch]
                prompts = [list(prompt_ids[i]) for i in positions]
                rows_BT = self._write(policy, prompts, sampling, [greedy[i] for i in positions])
                for position, prompt, row in zip(positions, prompts, rows_BT.tolist(), strict=True):
                    rollouts[position] = read_response(self.tokenizer, prompt, row, self.end_token_ids)
            for _ in range(more):
                self._write(policy, [[int(self.tokenizer.pad_token_id)]], sampling, [True])
        finally:
            policy.generation_config = live_config
            policy.train(was_training)
        return [rollouts[i] for i in range(len(prompt_ids))]

    def _batches_of_others(self, own: int, device: torch.device) -> int:
        """How many batches another rank has more: whoever holds a part of each layer must write along in them."""
        if not (self.synced and torch.distributed.is_initialized()):
            return 0
        most = torch.tensor(own, device=device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return int(most) - own

    def _write(self, policy: Any, prompts: list[list[int]], sampling: SamplingSettings, greedy: list[bool]) -> Tensor:
        """``(B, T)`` ids of the responses; what stands behind an end token means nothing.

        Each time that half of the rows have ended, the others go on in a batch of their own, with their part of the
        cache: responses differ in length, and a batch would else compute all of them to the end of the longest.
        """
        pad, device = int(self.tokenizer.pad_token_id), policy.device
        batch = collate_responses(prompts, [[] for _ in prompts], pad).to(device)
        width = batch.input_ids_BS.shape[1] - batch.response_ids_BT.shape[1]
        ids_BS, mask_BS = batch.input_ids_BS[:, :width], batch.attention_mask_BS[:, :width]
        ends = torch.tensor(sorted(self.end_token_ids), device=device)
        responses_BT = torch.full((len(prompts), sampling.max_new_tokens), pad, device=device)
        rows, written = torch.arange(len(prompts), device=device), 0  # who still writes, and how far they are
        mixed_B = torch.tensor(greedy, device=device) if any(greedy) and not all(greedy) else None
        cache: dict[str, Any] = {}
        while True:
            processors = [] if mixed_B is None else [_MostLikelyOnly(mixed_B[rows])]
            with self.precision():
                out = policy.generate(
                    ids_BS,
                    attention_mask=mask_BS,
                    generation_config=self._settings(sampling, sampling.max_new_tokens - written, all(greedy)),
                    logits_processor=LogitsProcessorList(processors),
                    stopping_criteria=StoppingCriteriaList([] if self.synced else [_HalfHaveEnded(len(rows), ends)]),
                    synced_gpus=self.synced,
                    **cache,
                )
            new_BT = out.sequences[:, ids_BS.shape[1] :]
            responses_BT[rows, written : written + new_BT.shape[1]] = new_BT
            written += new_BT.shape[1]
            open_rows = (~torch.isin(new_BT, ends).any(1)).nonzero().flatten()
            if written == sampling.max_new_tokens or not len(open_rows):
                return responses_BT
            mask_BS = F.pad(mask_BS, (0, new_BT.shape[1]), value=1)[open_rows]
            ids_BS, rows = out.sequences[open_rows], rows[open_rows]
            out[CACHE].reorder_cache(open_rows)  # each kind of cache has it, for beam search
            cache = {CACHE: out[CACHE]}

    def _settings(self, sampling: SamplingSettings, new_tokens: int, greedy: bool) -> GenerationConfig:
        how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        return GenerationConfig(
            max_new_tokens=new_tokens,
            do_sample=not greedy,
            pad_token_id=int(self.tokenizer.pad_token_id),
            eos_token_id=sorted(self.end_token_ids),
            use_cache=True,
            return_dict_in_generate=True,
            **({} if greedy else how),
        )


class _HalfHaveEnded(StoppingCriteria):
    """Stops the whole batch when half of its rows have ended."""

    def __init__(self, rows: int, ends: Tensor) -> None:
        self.rows_left = rows // 2 if rows >= FEW_ROWS else 0
        self.ends = ends
        self.open_B: Tensor | bool = True

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.open_B = ~torch.isin(input_ids[:, -1], self.ends) & self.open_B
        return (self.open_B.sum() <= self.rows_left).expand(len(input_ids))


class _MostLikelyOnly(LogitsProcessor):
    """Leaves the most likely token alone in the rows that are greedy, so that sampling can take no other."""

    def __init__(self, greedy_B: Tensor) -> None:
        self.greedy_B = greedy_B

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        only_BV = torch.full_like(scores, -torch.inf).scatter(1, scores.argmax(-1, keepdim=True), 0.0)
        return torch.where(self.greedy_B[:, None], only_BV, scores)


def read_response(tokenizer: Any, prompt_ids: list[int], written: Sequence[int], end_token_ids: set[int]) -> Rollout:
    """The response up to and including its end token, and its text.

    Args:
        tokenizer: the policy's.
        prompt_ids: what was asked.
        written: new ids; whatever follows the first end token is not part of the response.
        end_token_ids: tokens that end a response.
    """
    end = next((i for i, token in enumerate(written) if token in end_token_ids), None)
    ids = list(written if end is None else written[: end + 1])
    text = tokenizer.decode(
        ids if end is None else ids[:-1], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    # The plain template separates prompt and response by a blank, which the policy writes as part of its first token.
    return Rollout(prompt_ids, ids, end is not None, text.removeprefix(" "))


def _check_fits(policy: Any, prompt_ids: Sequence[Sequence[int]], new_tokens: int) -> None:
    table = position_table(policy)
    longest = max(map(len, prompt_ids), default=0)
    if table is not None and longest + new_tokens > table:
        raise ConfigError(
            f"the longest prompt ({longest:,} tokens) and {new_tokens:,} new tokens do not fit the policy's {table:,} "
            "positions",
            where="--max_new_tokens",
            fix="Lower --max_new_tokens or --max_prompt_tokens.",
        )
