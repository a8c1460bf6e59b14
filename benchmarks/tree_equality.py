"""How far rows of trees and packed rows are from padded batches, for every tested family, and each attention kernel.

    make bench-trees
    python -m benchmarks.tree_equality [--device cuda] [--output FILE.json]

Families: tiny random models (``tests/families.py``, ``tests/model/tree_cases.py``) on eleven sequences of 1 to 36
tokens that hold nested branches, repeats and strangers, with windows of 8 tokens where a family has windows. Printed
are the layout that the start-up check gives the model; the largest difference of a score from the padded batch's in
reward units, and that of an entry of a gradient relative to the largest entry of all, in float32; and for bf16 weights
the largest error of a score against float32, as a share of the largest score, of the padded batch and of the row.

Kernels: random queries, keys and values of a row of about 8,000 tokens (prompts of 200 to 600 tokens with 2 to 8
responses, 8 heads of 64, 2 key heads) against a masked softmax in float64: errors of the output and of the worst of the
three gradients relative to the largest entry, and milliseconds of a forward and backward pass (median of 5).
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tests.families import FAMILIES
from tests.model.tree_cases import branching, model_of, more_configs, outcome, padded, row

from odin_rm.core.files import environment_record
from odin_rm.data.trees import build_trees
from odin_rm.fast.tree_attention import what_layers_asked
from odin_rm.fast.tree_check import tree_support
from odin_rm.fast.tree_kernels import KERNELS
from odin_rm.fast.tree_layout import TreeLayout, make_layout

WINDOWS = (None, 128)


def to(inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The model's inputs on its device; the layout stays on the CPU."""
    return {k: v.to(device) if k.endswith(("_ids", "_mask")) else v for k, v in inputs.items()}


def family(name: str, folder: Path, device: torch.device) -> dict[str, Any]:
    """The figures of one family."""
    model = model_of(name, folder).to(device)
    sequences = branching()
    support = tree_support(model, sequences, int(model.config.pad_token_id), device=device)
    found: dict[str, Any] = {"layout": support.layout, "kernel": support.kernel, "why": support.why}
    if support.layout in ("padded", "single"):
        return found
    plain = outcome(model, to(padded(sequences, model), device))
    rows = {"packed": to(row(sequences, share=False), device)}
    if support.layout == "tree":
        rows["tree"] = to(row(sequences), device)
    for layout, inputs in rows.items():
        scores, gradients = outcome(model, inputs).differences(plain)
        found[layout] = {"scores": scores, "gradients": gradients}
    model = model.to(torch.bfloat16)
    largest = float(plain.scores_HR.abs().max())
    for layout, inputs in {"padded": to(padded(sequences, model), device), **rows}.items():
        scores, gradients = outcome(model, inputs).differences(plain)
        found.setdefault(layout, {}).update({"bf16": scores / largest, "bf16_gradients": gradients})
    found["bf16_kernel"] = what_layers_asked(model)[0][1].kernel
    return found


def kernel_row(seed: int = 0, tokens: int = 8000) -> TreeLayout:
    """The layout of groups of responses."""
    generator = np.random.default_rng(seed)
    sequences: list[np.ndarray] = []
    while sum(map(len, sequences)) < 2 * tokens:
        prompt = generator.integers(0, 1000, generator.integers(200, 600))
        for _ in range(generator.integers(2, 9)):
            sequences.append(np.concatenate([prompt, generator.integers(0, 1000, generator.integers(50, 300))]))
    batch = build_trees(sequences)
    columns = (batch.segment_start, batch.segment_length, batch.segment_parent)
    return make_layout(*map(torch.from_numpy, columns))


def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen_TT: torch.Tensor) -> torch.Tensor:
    """Masked softmax attention, one head at a time."""
    groups = query.shape[1] // key.shape[1]
    heads = []
    for h in range(query.shape[1]):
        scores = query[0, h] @ key[0, h // groups].T * query.shape[-1] ** -0.5
        heads.append(scores.masked_fill(~seen_TT, -torch.inf).softmax(-1) @ value[0, h // groups])
    return torch.stack(heads, dim=1)[None]


def kernels(names: list[str], device: torch.device, tokens: int) -> list[dict[str, Any]]:
    """Errors and times of each kernel that runs on a device, by dtype and window."""
    layout = kernel_row(tokens=tokens)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, layout.tokens, h, 64, generator=generator).transpose(1, 2).to(device) for h in (8, 2, 2)]
    weight = torch.randn(1, layout.tokens, 8, 64, generator=generator).to(device)
    cases = []
    for dtype in (torch.bfloat16, torch.float32):
        rounded = [x.to(dtype) for x in drawn]
        for window in WINDOWS:
            masked = functools.partial(exact, seen_TT=layout.dense_mask(device, window))
            cases.append((dtype, window, rounded, passes(masked, rounded, weight)))
    figures = []
    for name in names:
        for dtype, window, rounded, expected in cases:
            run = functools.partial(KERNELS[name], layout=layout, scale=None, window=window)
            line = {"kernel": name, "dtype": str(dtype).split(".")[1], "window": window, "tokens": layout.tokens}
            try:
                errors, seconds = measure(run, rounded, weight, expected)
                line |= {"output": errors[0], "gradients": max(errors[1:]), "ms": 1000 * seconds}
            except Exception as error:  # each kernel refuses in its own way
                line["refused"] = f"{type(error).__name__}: {error}".split("\n")[0][:160]
            figures.append(line)
            print(json.dumps(line), flush=True)
    return figures


def passes(run: Any, tensors: list[torch.Tensor], weight: torch.Tensor) -> list[torch.Tensor]:
    """Output and gradients in float64."""
    inputs = [x.double().requires_grad_() for x in tensors]
    out = run(*inputs)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)]


def measure(
    run: Any, tensors: list[torch.Tensor], weight: torch.Tensor, expected: list[torch.Tensor], times: int = 5
) -> tuple[list[float], float]:
    """Relative errors of a kernel, and the median seconds of a forward and backward pass."""
    seconds = []
    for turn in range(times + 1):
        inputs = [x.clone().requires_grad_() for x in tensors]
        synchronise(weight.device)
        start = time.perf_counter()
        out = run(*inputs)
        found = [out.detach(), *torch.autograd.grad((out.float() * weight).sum(), inputs)]
        synchronise(weight.device)
        if turn:
            seconds.append(time.perf_counter() - start)
    errors = [float((f.double() - e).abs().max() / e.abs().max()) for f, e in zip(found, expected, strict=True)]
    return errors, statistics.median(seconds)


def synchronise(device: torch.device) -> None:
    """Wait for a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown of the families."""
    head = (
        "| family | layout | tree: score | gradient | packed: score | gradient | bf16 error: padded | tree | packed |"
    )
    lines = [head, "|---" * 9 + "|"]
    for name, found in results.items():
        if found["layout"] in ("padded", "single"):
            lines.append(f"| {name} | {found['why']} |" + " |" * 7)
            continue
        cells = [name, found["layout"]]
        cells += [_number(found.get(x), y) for x in ("tree", "packed") for y in ("scores", "gradients")]
        cells += [_number(found.get(x), "bf16") for x in ("padded", "tree", "packed")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(found: dict[str, float] | None, key: str) -> str:
    return "" if found is None else f"{found[key]:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=8000, help="of the row for the kernels")
    parser.add_argument("--kernels", nargs="*", choices=list(KERNELS), default=list(KERNELS))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = torch.device(arguments.device)
    results = {}
    for name in (*FAMILIES, *more_configs()):
        with tempfile.TemporaryDirectory() as scratch:
            results[name] = family(name, Path(scratch), device)
    print(table(results), flush=True)
    figures = kernels(arguments.kernels, device, arguments.tokens)
    if arguments.output:
        record = {"machine": environment_record(), "families": results, "kernels": figures}
        arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
