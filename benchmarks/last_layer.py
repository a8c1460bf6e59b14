"""What the last layer at the read tokens alone gains in a training step of a deep model.

A random Llama of 24 layers takes the same step in turns: its last layer at the tokens that are read
(:mod:`odin_rm.fast.last_layer`), and at all tokens. Each pair of steps gives a ratio of CPU seconds; their median and
its interval (bootstrap over the pairs) are printed.

    python -m benchmarks.last_layer --layers 24 --rounds 20
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks.exactness import make_trainer
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.fast.compiled import repeated_layers
from odin_rm.fast.last_layer import read_all, read_only_ends

PROMPTS, RESPONSES, VOCABULARY = 8, 4, 1000


def responses_of_length(seed: int, prompt_tokens: int, response_tokens: int) -> TokenisedPreferences:
    """Prompts with four responses each, the first better than the second and the third better than the fourth."""
    rng = np.random.default_rng(seed)
    sequences, tokens = [], []
    for _ in range(PROMPTS):
        prompt = rng.integers(1, VOCABULARY, prompt_tokens)
        for _ in range(RESPONSES):
            length = int(rng.integers(response_tokens // 2, response_tokens * 3 // 2))
            sequences.append(np.concatenate([prompt, rng.integers(1, VOCABULARY, length)]))
            tokens.append(length)
    first = np.arange(0, PROMPTS * RESPONSES, 2, dtype=np.int32)
    return TokenisedPreferences(
        input_ids_flat=np.concatenate(sequences).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64),
        response_tokens=np.array(tokens, dtype=np.int32),
        response_prompt=np.repeat(np.arange(PROMPTS), RESPONSES).astype(np.int32),
        pair_chosen=first,
        pair_rejected=first + 1,
        pair_margin=np.zeros(len(first), dtype=np.float32),
        pair_row=np.arange(1, len(first) + 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--prompt_tokens", type=int, default=64)
    parser.add_argument("--response_tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=args.hidden, intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers, num_attention_heads=args.hidden // 64, pad_token_id=0,
    )  # fmt: skip
    data = responses_of_length(args.seed, args.prompt_tokens, args.response_tokens)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        trainer = make_trainer(folder, data, scratch, batch_layout="tree", microbatch_tokens="100000")
        base = trainer.model.classifier.base_model
        attentions = [layer.self_attn for layer in base.layers]
        trainer.training_step(trainer.model_wrapped, trainer.batches[0])  # the layout is verified here
        ratios = []
        for _ in range(args.rounds):
            seconds = []
            for confined in (True, False):
                read_all(base)
                if confined:
                    assert read_only_ends(repeated_layers(base), attentions)
                trainer.model.zero_grad()
                start = time.process_time()
                trainer.training_step(trainer.model_wrapped, trainer.batches[0])
                seconds.append(time.process_time() - start)
            ratios.append(seconds[0] / seconds[1])
    draws = np.random.default_rng(args.seed).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    figures = {"layers": args.layers, "ratio": float(np.median(ratios)), "low": float(low), "high": float(high)}
    print(json.dumps(figures | {"rounds": args.rounds, "seconds": seconds}))


if __name__ == "__main__":
    main()
