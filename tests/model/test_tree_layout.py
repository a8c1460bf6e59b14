"""Layouts by hand, and each kernel against a naive loop over paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.data.trees import build_trees
from odin_rm.fast.tree_kernels import KERNELS, SQUARE, WHOLE, _Gather, choose_kernel
from odin_rm.fast.tree_layout import Chain, Link, TreeLayout, make_layout
from tests.data.test_trees import path

CPU = torch.device("cpu")
FORESTS = [
    [[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 7], [1, 2, 7, 8], [9], [4, 4, 4]],
    [[5]],
    [[1, 2, 3], [1, 2, 4], [1, 2, 5], [1, 6], [1, 6, 7, 7, 7], [1, 6, 7, 8], [2]],
]


def layout_of(sequences, *, share=True, causal=True, **kwargs):
    batch = build_trees([np.array(s) for s in sequences], share=share, min_shared=1)
    columns = (batch.segment_start, batch.segment_length, batch.segment_parent)
    return batch, make_layout(*map(torch.from_numpy, columns), causal=causal, **kwargs)


def seen_by_paths(batch, causal: bool, window: int | None) -> np.ndarray:
    """``(T, T)`` who sees whom, token by token along the paths of the forest."""
    count = len(batch.input_ids)
    seen = np.zeros((count, count), dtype=bool)
    for end in range(count):
        for other in path(batch, end):
            near = window is None or batch.position_ids[end] - batch.position_ids[other] < window
            seen[end, other] = near
    return seen if causal else seen | seen.T


def test_a_nested_forest_by_hand():
    # Row: 1 | 2 | 3 | 4 | 5 | 6, segments: a=1, b=2 (of a), c=3 (of b), d=4 (of b), e=5 (of a), f=6 (a root).
    starts, lengths, parents = torch.arange(6), torch.ones(6, dtype=torch.int64), torch.tensor([-1, 0, 1, 1, 0, -1])
    layout = make_layout(starts, lengths, parents)
    assert layout.chains == (
        Chain(0, 3, ()),
        Chain(3, 4, ((0, 2),)),
        Chain(4, 5, ((0, 1),)),
        Chain(5, 6, ()),
    )
    assert set(layout.links) == {Link(3, 4, 0, 2), Link(4, 5, 0, 1)}
    assert layout.position_T.tolist() == [0, 1, 2, 2, 1, 0]
    assert layout.end_T.tolist() == [5, 4, 3, 4, 5, 6]
    assert layout.root_T.tolist() == [0, 0, 0, 0, 0, 5]
    assert layout.longest == 3
    assert layout.dense_mask(CPU, None).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert layout.path_index(layout.chains[1], CPU).tolist() == [0, 1, 3]
    assert layout.path_mask(layout.chains[1], CPU, 2).tolist() == [[False, True, True]]
    paths = layout.packed_paths(CPU)
    assert paths.key_index.tolist() == [0, 1, 2, 0, 1, 3, 0, 4, 5]
    assert paths.query_offsets.tolist() == [0, 3, 4, 5, 6]
    assert paths.key_offsets.tolist() == [0, 3, 6, 8, 9]
    assert (paths.most_queries, paths.most_keys) == (3, 3)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("square", [1, 2, 100])
@pytest.mark.parametrize("forest", FORESTS)
def test_squares_and_links_hold_every_visible_pair_once(forest, square, window):
    batch, layout = layout_of(forest)
    count = np.zeros((layout.tokens, layout.tokens), dtype=int)
    squares, links = layout.blocks(square, 10**9)
    if square == 100:
        assert squares == [(chain.start, chain.stop) for chain in layout.chains]
        assert links == list(layout.links)
    for start, stop in squares:
        for i in range(start, stop):
            count[i, start : i + 1] += 1
    for link in links:
        count[link.query_start : link.query_stop, link.key_start : link.key_stop] += 1
    assert (count == seen_by_paths(batch, True, None)).all()
    assert (layout.dense_mask(CPU, window).numpy() == seen_by_paths(batch, True, window)).all()


def test_packed_roots_see_all_of_themselves():
    batch, layout = layout_of(FORESTS[0], share=False, causal=False)
    assert (layout.dense_mask(CPU, None).numpy() == seen_by_paths(batch, False, None)).all()
    assert not layout.links


@pytest.mark.parametrize(
    ("starts", "parents", "causal", "message"),
    [
        ([0, 2], [-1, 0], True, "segment 1 of the row does not follow"),
        ([0, 1, 2, 3], [-1, 0, -1, 0], True, "segment 3 of the row does not follow"),
        ([0, 1], [-1, 1], True, "segment 1 of the row does not follow"),
        ([0, 1], [-1, 0], False, "which only a causal model can have"),
        ([], [], True, "no segment"),
    ],
)
def test_rows_that_are_no_forest_are_refused(starts, parents, causal, message):
    lengths = torch.ones(len(starts), dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        make_layout(torch.tensor(starts), lengths, torch.tensor(parents), causal=causal)


# ---- kernels -------------------------------------------------------------------------------------------------------


def inputs(layout: TreeLayout, heads=4, key_heads=2, size=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(count):
        # Heads beside each other in memory, as a linear layer leaves them.
        x = torch.randn(1, layout.tokens, count, size, generator=generator, dtype=torch.float64).to(dtype)
        return x.transpose(1, 2).requires_grad_()

    return draw(heads), draw(key_heads), draw(key_heads)


def naive(query, key, value, seen_TT, scale):
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~torch.from_numpy(seen_TT), -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def with_gradients(function, tensors):
    out = function(*tensors)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), tensors)]


@pytest.mark.parametrize("window", [None, 2, 100])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (4, 1), (1, 1)])
@pytest.mark.parametrize("kernel", ["segments", "dense"])
def test_kernels_agree_with_a_naive_one_in_values_and_gradients(kernel, heads, key_heads, window, monkeypatch):
    monkeypatch.setattr("odin_rm.fast.tree_kernels.SQUARE", 2)
    for forest in FORESTS:
        batch, layout = layout_of(forest)
        tensors = inputs(layout, heads, key_heads)
        run = lambda q, k, v, layout=layout: KERNELS[kernel](q, k, v, layout, 0.3, layout.window(window))  # noqa: E731
        seen = seen_by_paths(batch, True, window)
        expected = with_gradients(lambda q, k, v, seen=seen: naive(q, k, v, seen, 0.3), tensors)
        found = with_gradients(run, tensors)
        assert found[0].shape == (1, layout.tokens, heads, 8)
        assert found[0].is_contiguous()
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("kernel", ["segments", "dense", "flex"])
def test_packed_rows_without_causality(kernel, window):
    batch, layout = layout_of(FORESTS[0], share=False, causal=False)
    with torch.no_grad():
        tensors = [x.detach() for x in inputs(layout)]
        found = KERNELS[kernel](*tensors, layout, None, window)
        expected = naive(*tensors, seen_by_paths(batch, False, window), 8**-0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [None, 2])
def test_flex_attention_gives_the_same_values(window):
    batch, layout = layout_of(FORESTS[2])
    with torch.no_grad():
        tensors = [x.detach() for x in inputs(layout)]
        found = KERNELS["flex"](*tensors, layout, 0.3, window)
        expected = naive(*tensors, seen_by_paths(batch, True, window), 0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_variable_length_attention_gets_the_chains_and_their_paths(monkeypatch):
    """The kernel itself needs CUDA; a stand-in attends sequence by sequence as it does, aligned at the end."""
    batch, layout = layout_of(FORESTS[2])

    def stand_in(query, key, value, query_offsets, key_offsets, most_queries, most_keys, *, scale, window_size):
        assert window_size == (-1, 0)
        out = torch.empty_like(query)
        spans = [zip(o.tolist(), o.tolist()[1:], strict=False) for o in (query_offsets, key_offsets)]
        for (a, b), (c, d) in zip(*spans, strict=True):
            assert b - a <= most_queries
            assert d - c <= most_keys
            seen = np.arange(d - c) <= np.arange(b - a)[:, None] + (d - c) - (b - a)
            whole = [x[None].transpose(1, 2) for x in (query[a:b], key[c:d], value[c:d])]
            out[a:b] = naive(*whole, seen, scale)[0]
        return out

    names = frozenset({"window_size"})
    monkeypatch.setattr("odin_rm.fast.tree_kernels._varlen", lambda: (stand_in, names))
    tensors, seen = inputs(layout, 4, 4), seen_by_paths(batch, True, None)
    found = with_gradients(lambda *x: KERNELS["varlen"](*x, layout, 0.3, None), tensors)
    expected = with_gradients(lambda *x: naive(*x, seen, 0.3), tensors)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_gradients_of_many_branches_are_rounded_once():
    """256 + 300 times 1 is 556 exactly, but in bf16 adding 1 to 256 changes nothing."""
    x = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    gathered = _Gather.apply(x, torch.tensor([0] * 301 + [1]))
    gathered.backward(torch.tensor([[256.0]] + [[1.0]] * 301, dtype=torch.bfloat16))
    assert x.grad.flatten().tolist() == [556.0, 1.0]


def test_chains_and_links_pass_gradcheck(monkeypatch):
    monkeypatch.setattr("odin_rm.fast.tree_kernels.SQUARE", 2)
    _, layout = layout_of(FORESTS[0])
    tensors = inputs(layout, 2, 1, 4)
    assert torch.autograd.gradcheck(lambda *x: KERNELS["segments"](*x, layout, 0.5, None), tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_chains_and_links_in_16_bits_round_only_once(dtype):
    _, layout = layout_of(FORESTS[0])
    low = inputs(layout, dtype=dtype)
    exact = tuple(x.detach().double().requires_grad_() for x in low)
    found = with_gradients(lambda *x: KERNELS["segments"](*x, layout, 0.3, None), low)
    expected = with_gradients(lambda *x: KERNELS["segments"](*x, layout, 0.3, None), exact)
    assert found[0].dtype == dtype
    step = torch.finfo(dtype).eps
    for mine, theirs in zip(found, expected, strict=True):
        largest = float(theirs.detach().abs().max())
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=4 * step * largest)


forests = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(forest=forests, heads=st.sampled_from([(2, 2), (4, 2)]), square=st.integers(1, 4))
def test_any_forest(forest, heads, square):
    batch, layout = layout_of(forest)
    blocks = layout.blocks(square, 10**9)
    layout.once(("blocks", SQUARE, WHOLE), lambda: blocks)
    tensors = inputs(layout, *heads)
    found = with_gradients(lambda *x: KERNELS["segments"](*x, layout, 0.3, None), tensors)
    seen = seen_by_paths(batch, True, None)
    expected = with_gradients(lambda *x: naive(*x, seen, 0.3), tensors)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_the_kernel_is_chosen_by_device_and_dtype():
    tensor = torch.zeros(1, 2, 3, 8)
    assert choose_kernel("auto", tensor, tensor) == "segments"
    assert choose_kernel("dense", tensor, tensor) == "dense"
    with pytest.raises(NotImplementedError, match="wants a CUDA device"):
        choose_kernel("varlen", tensor.bfloat16(), tensor.bfloat16())
    with pytest.raises(NotImplementedError, match="no kernel 'fast'"):
        choose_kernel("fast", tensor, tensor)
