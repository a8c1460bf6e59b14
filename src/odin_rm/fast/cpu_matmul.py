"""Large float32 products of linear layers on a CPU, by whichever of torch's two libraries is faster on this machine.

Torch multiplies float32 matrices with MKL, which on processors of other makers than its own leaves the widest vector
units unused. The oneDNN that torch brings as well uses them: on an AMD EPYC with AVX-512 it is 2.2 times as fast.
Torch reaches it for float32 in inference graphs only, so the three products of a layer (output, gradient of the input,
gradient of the weight) are put together here. They are float32 products of the same numbers in another order of sums.

Which library it is, is measured once a process in some milliseconds; oneDNN's product is held against float64 first.
Small products, other dtypes, autocast and other devices are torch's own as ever.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from odin_rm.core.errors import ConfigError

MIN_WORK = 2**26
"""Multiplications from which on oneDNN is asked: setting up a product of a new shape takes it up to a millisecond."""

_GAIN = 1.15  # from which on it is worth it
_SIZE = (384, 512, 640)  # rows, inputs and outputs of the product that is timed: a few milliseconds
_TIMES = 7


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight.T + bias`` by oneDNN, with its derivatives.

    Args:
        input: ``(..., I)`` float32, on the CPU.
        weight: ``(O, I)``, maybe a transposed view.
        bias: ``(O,)`` or ``None``.

    Returns:
        ``(..., O)``.
    """
    return _linear(input, weight, bias) if torch.compiler.is_compiling() else _Linear.apply(input, weight, bias)


def use_fast_products(model: nn.Module) -> int:
    """Let the linear layers of a model choose for themselves; weights, names and everything else stay as they are.

    Returns:
        How many layers there are of the kinds that can.
    """
    count = 0
    for module in model.modules():
        fast = _FAST.get(type(module))
        if fast is not None:
            module.__class__ = fast
        count += isinstance(module, tuple(_FAST.values()))
    return count


def choose_matmul(model: nn.Module, requested: str) -> str:
    """Fix the library of a model's large products on a CPU.

    Args:
        model: whose layers were given a choice by :func:`use_fast_products`.
        requested: ``torch``, ``onednn``, or ``auto``: the faster one.

    Returns:
        The library, not ``auto``.

    Raises:
        ConfigError: this machine's torch cannot multiply by oneDNN.
    """
    if requested == "onednn" and not _is_right():
        fix = "Use auto or torch."
        raise ConfigError("this torch cannot multiply float32 by oneDNN", where="--cpu_products onednn", fix=fix)
    use = requested == "onednn" or (requested == "auto" and faster_by() >= _GAIN)
    for module in model.modules():
        if isinstance(module, tuple(_FAST.values())):
            module.__dict__["by_onednn"] = use
    return "onednn" if use else "torch"


@functools.cache
def faster_by() -> float:
    """How many times as fast as torch's own product oneDNN's is on this machine; 0 where it cannot be used."""
    if not _is_right():
        return 0.0
    input, weight = _example()
    ours, theirs = float("inf"), float("inf")
    with torch.no_grad():
        for _ in range(_TIMES):  # in turns, and the best of each: another process may take a while of either
            ours = min(ours, _seconds(lambda: linear(input, weight)))
            theirs = min(theirs, _seconds(lambda: torch.nn.functional.linear(input, weight)))
    return theirs / ours


@functools.cache
def _is_right() -> bool:
    """Whether the operator is there and gives this product and its derivatives."""
    input, weight = _example()
    try:
        with torch.enable_grad():
            input.requires_grad_(True), weight.requires_grad_(True)
            output = linear(input, weight)
            found = [output.detach(), *torch.autograd.grad(output.square().sum(), [input, weight])]
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    with torch.no_grad():
        x, w = input.double(), weight.double()
        y = x @ w.T
        wanted = [y, 2 * y @ w, 2 * y.T @ x]
    return all(
        bool((mine - own).abs().max() <= 1e-4 * own.abs().max()) for mine, own in zip(found, wanted, strict=True)
    )


def _example() -> tuple[Tensor, Tensor]:
    rows, inputs, outputs = _SIZE
    generator = torch.Generator().manual_seed(0)  # not torch's own numbers: a run's must not depend on the machine
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
    return torch.randn(rows, inputs, **options), torch.randn(outputs, inputs, **options)


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _product(a_MK: Tensor, b_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """``a b^T + bias``; either may be a transposed view."""
    return torch.ops.mkldnn._linear_pointwise(a_MK, b_NK, bias_N, "none", [], "")


def _forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = _product(input.reshape(-1, input.shape[-1]), weight, bias)
    return rows.reshape(*input.shape[:-1], weight.shape[0])


def _backward(
    grad: Tensor, input: Tensor, weight: Tensor, for_input: bool, for_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and weight, where they are wanted."""
    grad_RO, input_RI = grad.reshape(-1, grad.shape[-1]), input.reshape(-1, input.shape[-1])
    grad_input = _product(grad_RO, weight.t()).reshape(input.shape) if for_input else None
    return grad_input, _weight_gradient(grad_RO, input_RI) if for_weight else None


def _weight_gradient(grad_RO: Tensor, input_RI: Tensor) -> Tensor:
    """``grad^T input``, contiguous. The operator copies a transposed first factor, so that is the narrower one."""
    if grad_RO.shape[1] <= input_RI.shape[1]:
        return _product(grad_RO.t(), input_RI.t())
    return _product(input_RI.t(), grad_RO.t()).t().contiguous()


# The same as operators of torch's own kind, which compiled layers call as they are.


@torch.library.custom_op("odin_rm::linear", mutates_args=(), device_types="cpu")
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _forward(input, weight, bias)


@torch.library.custom_op("odin_rm::linear_backward", mutates_args=(), device_types="cpu")
def _linear_backward(
    grad: Tensor, input: Tensor, weight: Tensor, for_input: bool, for_weight: bool
) -> tuple[Tensor, Tensor]:
    grads = _backward(grad, input, weight, for_input, for_weight)
    grad_input, grad_weight = (grad.new_empty(0) if one is None else one for one in grads)
    return grad_input, grad_weight


@_linear.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


@_linear_backward.register_fake
def _(grad: Tensor, input: Tensor, weight: Tensor, for_input: bool, for_weight: bool) -> tuple[Tensor, Tensor]:
    return grad.new_empty(input.shape if for_input else 0), grad.new_empty(weight.shape if for_weight else 0)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _differentiate(ctx: Any, grad: Tensor, backward: Callable[..., Any] = _linear_backward) -> Any:
    for_input, for_weight, for_bias = ctx.needs_input_grad
    grad_input, grad_weight = backward(grad, *ctx.saved_tensors, for_input, for_weight)
    return (
        grad_input if for_input else None,
        grad_weight if for_weight else None,
        grad.flatten(0, -2).sum(0) if for_bias else None,
    )


torch.library.register_autograd(_linear, _differentiate, setup_context=_save)


class _Linear(torch.autograd.Function):
    """The same without an operator's overhead."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        output = _forward(input, weight, bias)
        _save(ctx, (input, weight, bias), output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return _differentiate(ctx, grad, _backward)


def _fits(layer: Any, input: Tensor) -> bool:
    """Whether a layer's product is one for oneDNN."""
    weight = layer.weight
    if input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    if not (input.dtype == weight.dtype == torch.float32) or input.numel() * layer.width < MIN_WORK:
        return False
    if layer.by_onednn is None:
        layer.by_onednn = faster_by() >= _GAIN
    return bool(layer.by_onednn)


class _FastLinear(nn.Linear):
    by_onednn: bool | None = None

    @property
    def width(self) -> int:
        """Outputs."""
        return self.out_features

    def forward(self, input: Tensor) -> Tensor:
        """``(..., I)`` to ``(..., O)``."""
        return linear(input, self.weight, self.bias) if _fits(self, input) else super().forward(input)


class _FastConv1D(Conv1D):
    """GPT-2's linear layer, whose weight is ``(I, O)``."""

    by_onednn: bool | None = None

    @property
    def width(self) -> int:
        """Outputs."""
        return self.nf

    def forward(self, x: Tensor) -> Tensor:
        """``(..., I)`` to ``(..., O)``."""
        return linear(x, self.weight.t(), self.bias) if _fits(self, x) else super().forward(x)


_FAST: dict[type, type] = {nn.Linear: _FastLinear, Conv1D: _FastConv1D}
