"""Products by oneDNN: the same numbers as float64 gives, chosen by speed, and nothing else about a model changes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from odin_rm.core.errors import ConfigError
from odin_rm.fast import cpu_matmul as products
from odin_rm.fast.cpu_matmul import choose_matmul, faster_by, linear, use_fast_products
from tests.model.tree_cases import branching, model_of, outcome, row

needs_onednn = pytest.mark.skipif(not products._is_right(), reason="this torch cannot multiply float32 by oneDNN")
# Float32 products of up to 64 numbers of size 1, against float64: 64 roundings of 6e-8, with room.
TOLERANCE = 2e-5


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@needs_onednn
def test_by_hand():
    input = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    weight = torch.tensor([[5.0, 6.0], [7.0, 8.0], [-1.0, 0.5]], requires_grad=True)
    bias = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    output = linear(input, weight, bias)
    assert output.tolist() == [[18.0, 23.0, 2.0], [40.0, 53.0, 1.0]]
    output.backward(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))
    assert input.grad.tolist() == [[3.0, 7.0], [7.0, 8.0]]
    assert weight.grad.tolist() == [[1.0, 2.0], [3.0, 4.0], [2.0, 4.0]]
    assert bias.grad.tolist() == [1.0, 1.0, 2.0]


@needs_onednn
@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (1, 33, 64), (2, 3, 16), (4, 64)])
@pytest.mark.parametrize("width", [3, 64])
def test_products_and_derivatives_are_those_of_float64(shape, width, bias, compiling, monkeypatch):
    """Wider inputs than outputs and the other way round, in the form for eager and for compiled layers."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    tensors = [draw(*shape), draw(width, shape[-1], seed=1), *([draw(width, seed=2)] if bias else [])]
    grad = draw(*shape[:-1], width, seed=3).detach()
    output = linear(*tensors)
    found = [output, *torch.autograd.grad(output, tensors, grad)]
    x, w, g = (t.detach().double().numpy() for t in (tensors[0], tensors[1], grad))
    flat_x, flat_g = x.reshape(-1, x.shape[-1]), g.reshape(-1, width)
    b = tensors[2].detach().double().numpy() if bias else 0.0
    wanted = [x @ w.T + b, g @ w, flat_g.T @ flat_x, *([flat_g.sum(0)] if bias else [])]
    for mine, own in zip(found, wanted, strict=True):
        assert mine.shape == own.shape
        assert mine.is_contiguous()
        np.testing.assert_allclose(mine.detach().numpy(), own, rtol=0, atol=TOLERANCE)


@needs_onednn
def test_only_gradients_that_are_wanted_are_computed(monkeypatch):
    calls: list[tuple[int, ...]] = []
    product = products._product
    monkeypatch.setattr(products, "_product", lambda a, b, c=None: calls.append(tuple(a.shape)) or product(a, b, c))
    frozen = draw(6, 4).detach()
    linear(draw(3, 4), frozen).sum().backward()
    assert len(calls) == 2
    calls.clear()
    linear(draw(3, 4).detach(), draw(6, 4)).sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        assert not linear(draw(3, 4), draw(6, 4)).requires_grad


@needs_onednn
def test_transposed_and_sliced_tensors():
    weight, input = draw(4, 6), draw(8, 5, 4)
    for x in (draw(3, 4), input[2:6, ::2], input.transpose(0, 1)):
        torch.testing.assert_close(linear(x, weight.t()), x @ weight)
    torch.testing.assert_close(linear(draw(3, 6), weight[1:3]), draw(3, 6) @ weight[1:3].t())


@needs_onednn
def test_the_operators_keep_torchs_rules():
    torch.library.opcheck(products._linear, (draw(2, 3, 4), draw(5, 4, seed=1), draw(5, seed=2)))
    torch.library.opcheck(products._linear, (draw(3, 4), draw(5, 4, seed=1), None))
    args = (draw(3, 5).detach(), draw(3, 4).detach(), draw(5, 4).detach())
    for wanted in [(True, True), (True, False), (False, True)]:
        torch.library.opcheck(
            products._linear_backward, (*args, *wanted), test_utils=("test_schema", "test_faketensor")
        )


# ---- layers ----------------------------------------------------------------------------------------------------------


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), Conv1D(24, 32), nn.Linear(24, 8, bias=False))


@needs_onednn
def test_layers_change_their_products_and_nothing_else(monkeypatch):
    plain, fast = small_model(), small_model()
    names = list(fast.state_dict())
    assert use_fast_products(fast) == 3
    assert use_fast_products(fast) == 3
    assert list(fast.state_dict()) == names
    assert all(isinstance(layer, type(own)) for layer, own in zip(fast, plain, strict=True))
    x = draw(10, 16).detach()
    torch.testing.assert_close(fast(x), plain(x), rtol=0, atol=0)  # too small to bother
    monkeypatch.setattr(products, "MIN_WORK", 1)
    called: list[int] = []
    monkeypatch.setattr(products, "linear", lambda *args: called.append(1) or linear(*args))
    assert choose_matmul(fast, "torch") == "torch"
    torch.testing.assert_close(fast(x), plain(x), rtol=0, atol=0)
    assert not called
    assert choose_matmul(fast, "onednn") == "onednn"
    for copied in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(copied(x), plain(x), rtol=0, atol=TOLERANCE)
    assert len(called) == 9
    low, low_plain = copy.deepcopy(fast).bfloat16(), copy.deepcopy(plain).bfloat16()
    torch.testing.assert_close(low(x.bfloat16()), low_plain(x.bfloat16()), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fast(x), plain(x), rtol=0, atol=0)
    assert len(called) == 9


@pytest.mark.parametrize(("factor", "library"), [(1.0, "torch"), (1.1, "torch"), (1.3, "onednn")])
def test_the_library_is_the_faster_one(factor, library, monkeypatch):
    monkeypatch.setattr(products, "faster_by", lambda: factor)
    monkeypatch.setattr(products, "MIN_WORK", 1)
    model = small_model()
    use_fast_products(model)
    assert choose_matmul(model, "auto") == library
    lazily = small_model()
    use_fast_products(lazily)
    lazily(draw(4, 16))
    assert lazily[0].by_onednn == (library == "onednn")


def test_where_the_operator_is_missing_or_wrong_torch_multiplies(monkeypatch):
    def broken(a, b, bias=None):
        return a @ b.t() * 1.01

    def missing(a, b, bias=None):
        raise AttributeError("no such operator")

    for product in (broken, missing):
        monkeypatch.setattr(products, "_product", product)
        products._is_right.cache_clear()
        faster_by.cache_clear()
        try:
            assert faster_by() == 0
            model = small_model()
            use_fast_products(model)
            assert choose_matmul(model, "auto") == "torch"
            with pytest.raises(ConfigError, match="--cpu_products onednn: this torch cannot"):
                choose_matmul(model, "onednn")
        finally:
            monkeypatch.undo()
            products._is_right.cache_clear()
            faster_by.cache_clear()


def test_torchs_random_numbers_do_not_depend_on_the_choice():
    products._is_right.cache_clear()
    faster_by.cache_clear()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    faster_by()
    assert torch.equal(before, torch.get_rng_state())


@needs_onednn
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_scores_and_gradients_of_models_are_those_of_torchs_products(name, tmp_path, monkeypatch):
    model = model_of(name, tmp_path)
    choose_matmul(model, "torch")
    plain = outcome(model, row(branching()))
    monkeypatch.setattr(products, "MIN_WORK", 1)
    assert choose_matmul(model, "onednn") == "onednn"
    called: list[int] = []
    product = products._product
    monkeypatch.setattr(products, "_product", lambda *args: called.append(1) or product(*args))
    scores, gradients = outcome(model, row(branching())).differences(plain)
    assert max(scores, gradients) < 1e-5
    layers = sum(getattr(m, "by_onednn", None) is True for m in model.modules())
    assert len(called) == 3 * layers >= 24  # output, gradient of the input, gradient of the weight
