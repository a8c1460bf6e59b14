"""Attention of a row that holds a forest: four kernels with one meaning.

Each takes ``query (1, H, T, D)``, ``key`` and ``value (1, K, T, D)`` with ``K`` key heads shared by ``H / K`` queries
each, and gives ``(1, T, H, D)``: each token's softmax attention over the tokens that it sees in its own sequence.

``segments`` computes each chain as causal squares and each link as one full rectangle (see ``tree_layout``), so no key
is copied, no mask exists and hardly a pair of tokens is computed in vain. A token's parts are put together by their
log-sum-exps ``l``: ``o = sum_i exp(l_i - l) o_i`` with ``l = log sum_i exp l_i``. The backward pass of flash attention
needs only the whole output and the whole ``l``, so it runs part by part and the parts' gradients add up.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from odin_rm.fast.tree_layout import TreeLayout

SQUARE, WHOLE = 256, 768
"""Tokens of a causal square: the CPU's flash attention computes both halves of one, and small ones waste less. From 768
queries on it takes larger blocks of them, and leaves out most of the other half by itself."""

Kernel = Callable[[Tensor, Tensor, Tensor, TreeLayout, float | None, int | None], Tensor]


def dense(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float | None, window: int | None
) -> Tensor:
    """One call with a ``(T, T)`` mask: simple, and slow for long rows."""
    mask = layout.dense_mask(query.device, window)
    key, value = _all_heads(key, query), _all_heads(value, query)
    return scaled_dot_product_attention(query, key, value, mask, scale=scale).transpose(1, 2).contiguous()


def attend_read(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float | None, window: int | None
) -> Tensor:
    """The queries of the tokens that are read (``layout.read``) under a mask; 0 for all others. Not in ``KERNELS``."""
    read = layout.read_on(query.device)
    assert read is not None
    key, value = _all_heads(key, query), _all_heads(value, query)
    mask = layout.read_mask(query.device, window)
    found = scaled_dot_product_attention(query.index_select(2, read), key, value, mask, scale=scale)
    whole = found.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])
    return whole.index_copy(1, read, found.transpose(1, 2))


def segments(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float | None, window: int | None
) -> Tensor:
    """Chains and links on a CPU; elsewhere, and with a window that cuts, each chain against its path."""
    plain = query.dtype == key.dtype == value.dtype and query.shape[-1] == value.shape[-1]
    if query.device.type == "cpu" and window is None and plain:
        return _ChainsAndLinks.apply(query, key, value, layout, scale)
    return _chain_by_chain(query, key, value, layout, scale, window)


def flex(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float | None, window: int | None
) -> Tensor:
    """FlexAttention with a block mask; compiled on an accelerator. It has no backward pass on a CPU."""
    mask = layout.once(("flex", query.device, window), lambda: _block_mask(layout, query.device, window))
    grouped = query.shape[1] != key.shape[1]
    run = _flex(query.device.type != "cpu")
    return run(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped).transpose(1, 2).contiguous()


def varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float | None, window: int | None
) -> Tensor:
    """Flash attention of variable length: the chains' queries against their paths, gathered; 16-bit floats on CUDA.

    Where there are more keys than queries the last query sees all keys (the kernel aligns them at the end).
    """
    paths = layout.packed_paths(query.device)
    query_THD, key_KHD, value_KHD = (x[0].transpose(0, 1) for x in (query, key, value))
    if paths.key_index is not None:
        key_KHD, value_KHD = (_Gather.apply(x, paths.key_index) for x in (key_KHD, value_KHD))
    attend, takes = _varlen()
    options: dict[str, Any] = {"scale": scale}
    if "enable_gqa" in takes:
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    if "window_size" in takes:
        left = -1 if window is None else window - 1
        options["window_size"] = (left, 0) if layout.causal else (left, left)
    elif window is not None:
        raise NotImplementedError("this release of torch has no window in its attention of variable length")
    else:
        options["is_causal"] = layout.causal
    offsets = (paths.query_offsets, paths.key_offsets, paths.most_queries, paths.most_keys)
    return attend(query_THD.contiguous(), key_KHD.contiguous(), value_KHD.contiguous(), *offsets, **options)[None]


KERNELS: dict[str, Kernel] = {"segments": segments, "varlen": varlen, "flex": flex, "dense": dense}


def choose_kernel(asked: str, query: Tensor, value: Tensor) -> str:
    """The kernel for these tensors: the one asked for, or the fastest that can take them.

    Raises:
        NotImplementedError: the one asked for cannot.
    """
    head = query.shape[-1]
    half = query.dtype in (torch.bfloat16, torch.float16)
    fits = query.device.type == "cuda" and half and head == value.shape[-1] and head % 8 == 0 and head <= 256
    if asked == "auto":
        return "varlen" if fits and _has_varlen() else "segments"
    if asked == "varlen" and not (fits and _has_varlen()):
        raise NotImplementedError("the kernel 'varlen' wants a CUDA device, 16-bit floats and heads of 8 to 256")
    if asked not in KERNELS:
        raise NotImplementedError(f"there is no kernel '{asked}' ({', '.join(KERNELS)})")
    return asked


class _ChainsAndLinks(torch.autograd.Function):
    """See the module's text. Grouped heads are given to the CPU's flash attention as a batch of key heads."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float | None
    ) -> Tensor:
        """``(1, T, H, D)``."""
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        q, k, v = _grouped(query, key, value)
        squares, links = layout.blocks(SQUARE, WHOLE)
        # Sums of several parts are kept in float32 until they are complete.
        kept = query.dtype if not links else torch.promote_types(query.dtype, torch.float32)
        out_1THD = torch.empty(1, query.shape[2], query.shape[1], query.shape[3], dtype=kept)
        out = _like(out_1THD, q)
        exact = torch.promote_types(query.dtype, torch.float32)
        lse = torch.empty(q.shape[0], q.shape[2], q.shape[1], dtype=exact).transpose(1, 2)
        for square in squares:
            run = slice(*square)
            out[:, :, run], lse[:, :, run] = attend(
                q[:, :, run], k[:, :, run], v[:, :, run], 0.0, layout.causal, scale=scale
            )
        for link in links:
            run, seen = slice(link.query_start, link.query_stop), slice(link.key_start, link.key_stop)
            part, part_lse = attend(q[:, :, run], k[:, :, seen], v[:, :, seen], 0.0, False, scale=scale)
            so_far, whole = lse[:, :, run], torch.logaddexp(lse[:, :, run], part_lse)
            kept_share, new_share = (so_far - whole).exp_()[..., None], (part_lse - whole).exp_()[..., None]
            out[:, :, run].mul_(kept_share).addcmul_(part.to(kept), new_share.to(kept))
            so_far.copy_(whole)
        out_1THD = out_1THD.to(query.dtype)
        ctx.save_for_backward(query, key, value, out_1THD, lse)
        ctx.layout, ctx.scale = layout, scale
        return out_1THD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_1THD: Tensor) -> Any:  # type: ignore[override]
        """Gradients of query, key and value."""
        differentiate = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, out_1THD, lse = ctx.saved_tensors
        layout: TreeLayout = ctx.layout
        q, k, v = _grouped(query, key, value)
        out, grad = _like(out_1THD, q), _like(grad_1THD.contiguous(), q)
        squares, links = layout.blocks(SQUARE, WHOLE)
        kept = query.dtype if not links else lse.dtype
        grads = [torch.empty(1, x.shape[2], x.shape[1], x.shape[3], dtype=kept) for x in (query, key, value)]
        grad_q, (grad_k, grad_v) = _like(grads[0], q), (x.transpose(1, 2) for x in grads[1:])

        def part(run: slice, seen: slice, causal: bool) -> list[Tensor]:
            found = differentiate(
                grad[:, :, run], q[:, :, run], k[:, :, seen], v[:, :, seen], out[:, :, run], lse[:, :, run],
                0.0, causal, scale=ctx.scale,
            )  # fmt: skip
            return [found[0], *(x.sum(1)[None] if k.stride(1) == 0 else x for x in found[1:])]

        for square in squares:
            run = slice(*square)
            grad_q[:, :, run], grad_k[:, :, run], grad_v[:, :, run] = part(run, run, layout.causal)
        for link in links:
            run, seen = slice(link.query_start, link.query_stop), slice(link.key_start, link.key_stop)
            for total, where, found in zip(
                (grad_q, grad_k, grad_v), (run, seen, seen), part(run, seen, False), strict=True
            ):
                total[:, :, where] += found
        return (*(x.transpose(1, 2).to(query.dtype) for x in grads), None, None)


class _Gather(torch.autograd.Function):
    """Rows of a tensor by index; a row's gradients from many branches are added up in float32 and rounded once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        """``x[index]``."""
        ctx.save_for_backward(index)
        ctx.rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """The gradient of ``x``."""
        (index,) = ctx.saved_tensors
        exact = grad.to(torch.promote_types(grad.dtype, torch.float32))
        return exact.new_zeros(ctx.rows, *grad.shape[1:]).index_add_(0, index, exact).to(grad.dtype), None


def _grouped(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value with equal heads and no copy: ``K`` batches of ``H / K`` heads that share one key head."""
    heads, key_heads = query.shape[1], key.shape[1]
    if heads == key_heads:
        return query, key, value
    groups = heads // key_heads
    spread = [x[0].unsqueeze(1).expand(-1, groups, -1, -1) for x in (key, value)]
    return query[0].unflatten(0, (key_heads, groups)), spread[0], spread[1]


def _like(x_1THD: Tensor, q: Tensor) -> Tensor:
    """``(1, T, H, D)`` seen in the shape of the grouped query ``q``."""
    x_HTD = x_1THD[0].transpose(0, 1)
    return x_HTD.unflatten(0, (q.shape[0], q.shape[1]))


def _all_heads(x: Tensor, query: Tensor) -> Tensor:
    """Key or value repeated for each query head."""
    groups = query.shape[1] // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def _chain_by_chain(
    query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float | None, window: int | None
) -> Tensor:
    key, value = _all_heads(key, query), _all_heads(value, query)
    parts = []
    for chain in layout.chains:
        run = slice(chain.start, chain.stop)
        index = layout.path_index(chain, query.device) if chain.before else None
        k, v = (x[:, :, run] if index is None else x.index_select(2, index) for x in (key, value))
        whole = window is None and (index is None or not layout.causal)
        mask = None if whole else layout.path_mask(chain, query.device, window)
        causal = whole and layout.causal
        part = scaled_dot_product_attention(query[:, :, run], k, v, mask, is_causal=causal, scale=scale)
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, dim=1)


def _block_mask(layout: TreeLayout, device: torch.device, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    position_T, end_T, root_T = (x.to(device) for x in (layout.position_T, layout.end_T, layout.root_T))

    def sees(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = (j <= i) & (i < end_T[j]) if layout.causal else root_T[i] == root_T[j]
        return seen if window is None else seen & ((position_T[i] - position_T[j]).abs() < window)

    return create_block_mask(sees, None, None, layout.tokens, layout.tokens, device=str(device))


@functools.cache
def _flex(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention  # type: ignore[return-value]


@functools.cache
def _varlen() -> tuple[Callable[..., Any], frozenset[str]]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


@functools.cache
def _has_varlen() -> bool:
    try:
        return bool(_varlen())
    except ImportError:
        return False
