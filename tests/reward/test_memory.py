"""Budgets of tokens, and steps that are taken again where memory runs out: nothing of them is lost."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from benchmarks import exactness

from odin_rm.core.errors import ConfigError
from odin_rm.model.device import is_out_of_memory
from odin_rm.model.reward_model import RewardModel
from odin_rm.reward import memory
from odin_rm.reward.callbacks import BeforeTraining
from odin_rm.reward.exact_batch import Engine, OutOfMemory, exact_backward
from odin_rm.reward.trainer import RewardTrainer
from tests.reward.test_exact_batch import WEIGHT_TOLERANCE, Linear

CPU = torch.device("cpu")
STEPS = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers.logging.set_verbosity_error()
    folder = tmp_path_factory.mktemp("memory")
    exactness.save_tiny_llama(folder / "model")
    data = exactness.make_data()
    probe = exactness.make_trainer(folder / "model", data, str(folder))
    return folder, data, exactness.naive_weights(folder / "model", data, probe, STEPS)


def trained(world: Any, at_start: Callable[[], Any] = lambda: None, **options: Any) -> tuple[RewardTrainer, float]:
    """A run of some steps, and how far its weights are from those of the naive implementation."""
    folder, data, expected = world
    settings = {"microbatch_tokens": 200, "batch_layout": "tree", "max_steps": STEPS, **options}
    trainer = exactness.make_trainer(folder / "model", data, str(folder), **settings)
    trainer.add_callback(BeforeTraining(at_start))
    trainer.train()
    found = {n: p.detach() for n, p in trainer._reward_model().named_parameters()}
    return trainer, exactness.worst(found, expected)


class Failing:
    """``RewardModel.forward`` that runs out of memory once: at the n-th pass of a kind, counted from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, *, grad: bool, error: Exception) -> None:
        original = RewardModel.forward
        self.calls, self.raised = 0, 0

        def forward(model: RewardModel, *args: Any, **inputs: Any) -> Any:
            self.calls += torch.is_grad_enabled() == grad
            if self.calls == number and not self.raised and torch.is_grad_enabled() == grad:
                self.raised += 1
                raise error
            return original(model, *args, **inputs)

        monkeypatch.setattr(RewardModel, "forward", forward)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
BARE = RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, BARE], ids=["class", "bare"])
@pytest.mark.parametrize(("grad", "number"), [(False, 6), (True, 7)], ids=["pass 1", "pass 2"])
def test_a_step_that_does_not_fit_is_taken_again(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, grad: bool, number: int, error: Any
) -> None:
    """The sixth scoring pass is in the middle of the second step; the seventh with gradient, after some backwards."""
    folder, data, _ = world
    calls = len(
        exactness.make_trainer(folder / "model", data, str(folder), microbatch_tokens=200, batch_layout="tree")
        .batches[0]
        .micro_batches
    )
    assert 2 < calls < number < 2 * calls
    started: list[Failing] = []
    with caplog.at_level(logging.WARNING, logger="odin_rm"):
        trainer, difference = trained(
            world, at_start=lambda: started.append(Failing(monkeypatch, number, grad=grad, error=error))
        )
    (failing,) = started
    assert failing.raised == 1
    assert difference < WEIGHT_TOLERANCE
    largest = max(trainer.batches[i].sizes.largest for i in range(2))
    assert trainer.budget.tokens <= 100
    assert trainer.batches.microbatch_tokens == trainer.budget.tokens >= largest
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("out of memory with micro-batches of ")
    assert f"--microbatch_tokens is {trainer.budget.tokens} from here on" in line
    assert trainer.state.global_step == STEPS


def test_kept_graphs_are_halved_first(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Failing] = []
    trainer, difference = trained(
        world,
        at_start=lambda: started.append(Failing(monkeypatch, 3, grad=True, error=OUT_OF_MEMORY)),
        single_pass_tokens=10**6,
    )
    assert started[0].raised == 1
    trainer.batches.set_epoch(0)
    sizes = trainer.batches[0].sizes
    assert trainer.budget.tokens == 200
    assert trainer.budget.kept == sizes.computed_tokens // 2
    assert 0 < trainer.retained_graphs(trainer.model, trainer.batches[0]) < sizes.micro_batches
    assert difference < WEIGHT_TOLERANCE


def test_memory_that_runs_out_in_a_backward_pass(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = []
    original = transformers.Trainer.create_accelerator_and_postprocess

    def prepare(trainer: Any) -> None:
        original(trainer)
        backward = trainer.accelerator.backward

        def failing(loss: torch.Tensor, **kwargs: Any) -> None:
            backward(loss, **kwargs)
            if not raised:
                raised.append(1)
                raise OUT_OF_MEMORY

        trainer.accelerator.backward = failing

    monkeypatch.setattr(transformers.Trainer, "create_accelerator_and_postprocess", prepare)
    _, difference = trained(world)
    assert raised
    assert difference < WEIGHT_TOLERANCE


def test_a_single_response_that_does_not_fit_ends_the_run(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data, _ = world
    trainer = exactness.make_trainer(folder / "model", data, str(folder), microbatch_tokens=64, max_steps=1)

    def never(model: RewardModel, *args: Any, **inputs: Any) -> Any:
        raise OUT_OF_MEMORY

    monkeypatch.setattr(RewardModel, "forward", never)
    with pytest.raises(ConfigError, match=r"--microbatch_tokens: a single response .* does not fit.*--max_length"):
        trainer.train()


def test_another_error_is_not_taken_for_memory(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data, _ = world
    trainer = exactness.make_trainer(folder / "model", data, str(folder), microbatch_tokens=64, max_steps=1)

    def broken(model: RewardModel, *args: Any, **inputs: Any) -> Any:
        raise RuntimeError("expected scalar type Float but found Half")

    monkeypatch.setattr(RewardModel, "forward", broken)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        trainer.train()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OUT_OF_MEMORY, True),
        (BARE, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_memory(error: Exception, said: bool) -> None:
    assert is_out_of_memory(error) is said


def test_ranks_agree_before_anything_is_exchanged() -> None:
    """A rank that had enough memory takes the step again too, and no gradient has travelled."""
    asked: list[bool] = []
    exchanged: list[int] = []

    def any_rank(here: bool) -> bool:
        asked.append(here)
        return len(asked) == 2  # the other one ran out in its second pass

    model = Linear()
    engine = Engine(any_rank=any_rank, exchange=lambda: exchanged.append(1))
    with pytest.raises(OutOfMemory):
        model.run(6, 6, engine=engine)
    assert (asked, exchanged) == ([False, False], [])
    asked += [False]
    model.run(6, 6, engine=engine)
    assert exchanged == [1]


@pytest.mark.parametrize("place", [1, 2, 3])
def test_every_rank_asks_at_the_same_places(place: int) -> None:
    """After scoring, before the pass that exchanges gradients, and between its forward and its backward pass."""
    model, asked = Linear(), list[bool]()
    calls = {1: 0, 2: 2, 3: 3}[place]  # forward passes before the one that fails
    original = model.score

    def score(rows: torch.Tensor) -> Any:
        if model.calls == calls:
            raise OUT_OF_MEMORY
        return original(rows)

    def any_rank(here: bool) -> bool:
        asked.append(here)
        return here

    with pytest.raises(OutOfMemory) as caught:
        exact_backward(score, model.batches(6, 6), 12, model.objective, engine=Engine(any_rank=any_rank))
    assert asked == [False] * (place - 1) + [True]
    assert not caught.value.alone


def test_nothing_starts_an_exchange_where_it_comes_at_the_end() -> None:
    from contextlib import contextmanager

    events: list[str] = []

    @contextmanager
    def no_sync() -> Any:
        events.append("local")
        yield

    model = Linear()
    engine = Engine(no_sync=no_sync, exchange=lambda: events.append("exchange"), synced_score=lambda rows: 1 / 0)
    expected = model.run(3, 3, 6)
    assert torch.equal(model.run(3, 3, 6, engine=engine), expected)
    assert events == ["local"] * 3 + ["exchange"]


@pytest.mark.parametrize(("kept", "scores"), [(False, 4), (True, 2)])
def test_the_synced_score_is_the_pass_that_exchanges(kept: bool, scores: int) -> None:
    model = Linear()
    synced: list[int] = []

    def synced_score(rows: torch.Tensor) -> Any:
        synced.append(len(rows))
        return model.score(rows)

    expected = model.run(4, 8)
    assert torch.equal(model.run(4, 8, engine=Engine(synced_score=synced_score, retained_graphs=2 * kept)), expected)
    assert synced == [8]
    assert model.calls == scores


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_checkpointing_costs_one_forward_pass_more_and_not_two(
    world: Any, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    folder, data, _ = world

    def passes(**options: Any) -> tuple[float, dict[str, torch.Tensor]]:
        """Forward passes of the first layer per micro-batch, and the gradient."""
        trainer = exactness.make_trainer(
            folder / "model", data, str(folder), microbatch_tokens=200, batch_layout=layout, **options
        )
        count = [0]
        if options.get("activation_checkpointing"):
            trainer.model.activation_checkpointing_enable()
        trainer.before_training()
        layer: Any = trainer._reward_model().classifier.model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_: count.__setitem__(0, count[0] + 1))
        found = exactness.step_gradients(trainer)
        return count[0] / len(trainer.batches[0].micro_batches), found

    plain, expected = passes()
    checkpointed, found = passes(activation_checkpointing=True)
    assert (plain, checkpointed) == (2, 2)
    assert exactness.worst(found, expected) < WEIGHT_TOLERANCE
    # Where not even the layers' inputs of a step fit, each micro-batch is computed a third time.
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert passes(activation_checkpointing=True)[0] == 3


def test_a_measured_budget_by_hand() -> None:
    """Half of 8 GiB less 1 GiB to come is 3 GiB: 3072 tokens of 1 MiB; a GPU gives four fifths."""
    gib, mib = 2**30, 2**20
    budget = memory.choose(mib, CPU, gib, free=8 * gib)
    assert (budget.tokens, budget.kept) == (3072, 3072)
    assert memory.choose(mib, CPU, gib, free=8 * gib, processes=2).kept == 1024
    assert memory.choose(mib / 64, CPU, gib, free=8 * gib).tokens == memory.CPU_TOKENS
    assert memory.choose(mib, torch.device("cuda"), gib, free=10 * gib).tokens == 7 * 1024
    assert memory.choose(1.0, torch.device("cuda"), gib, free=10 * gib).tokens == memory.MOST_TOKENS
    assert memory.choose(mib, CPU, gib, free=gib).tokens == 1


def test_shrinking_by_hand() -> None:
    budget = memory.Budget(1000, kept=5000, largest_completed=400)
    assert "graphs are kept of 450 tokens" in budget.shrink(300, kept=900)
    assert (budget.tokens, budget.kept, budget.largest_completed) == (1000, 450, 0)
    budget.shrink(300, kept=0)  # halving 1000 would change nothing for a step of 300
    assert budget.tokens == 150
    budget.shrink(400, kept=0)
    assert budget.tokens == 75


def test_graphs_that_fit_by_hand() -> None:
    found = [memory.kept_rounds((50, 30, 20), most) for most in (0, 49, 50, 79, 80, 100, 10**9)]
    assert found == [0, 0, 1, 1, 2, 3, 3]
    assert memory.kept_rounds((50,), 100) == 0  # one micro-batch has one pass anyway


def test_bytes_per_token_are_those_of_the_graph() -> None:
    """Of y = tanh(x w): autograd keeps x, w and y; w is there anyway."""
    x, w = torch.randn(10, 4), torch.randn(4, 6, requires_grad=True)
    assert memory.graph_bytes(lambda: torch.tanh(x @ w).sum(), CPU, [w]) == 10 * 4 * (4 + 6)
    assert w.grad is not None


def test_what_is_fixed_is_not_charged_to_tokens() -> None:
    assert memory.line_through([(100, 9000), (100, 1500), (300, 3500)]) == (10, 500)
    assert memory.line_through([(50, 1000)]) == (20, 0)
    # Data of one length only, and a measurement that makes no sense, fall back on the mean.
    assert memory.line_through([(100, 1000), (150, 1200)]) == (8, 0)
    assert memory.line_through([(100, 5000), (400, 5000)]) == (12.5, 0)


def test_the_estimate_is_near_what_a_model_needs(world: Any) -> None:
    folder, data, _ = world
    model = exactness.load_model(folder / "model")
    from odin_rm.data.planning import row_inputs

    inputs = row_inputs([data.input_ids(r) for r in range(30)], "tree", 0)
    tokens = int(inputs["input_ids"].numel())
    parameters = memory.all_parameters(model)
    measured = memory.graph_bytes(lambda: model(**inputs).total().sum(), CPU, parameters) / tokens
    assert memory.activation_bytes(model.config) / measured == pytest.approx(1, abs=0.1)
    assert memory.activation_bytes(model.config, checkpointing=True) < 0.7 * measured


def test_what_is_free_is_measured() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < memory.free_bytes(CPU) <= total


@pytest.fixture
def resumed(world: Any, tmp_path: Path) -> Callable[..., RewardTrainer]:
    folder, data, _ = world

    def make(**options: Any) -> RewardTrainer:
        settings = {"microbatch_tokens": "auto", "batch_layout": "tree", "save_strategy": "steps", "save_steps": 1}
        return exactness.make_trainer(folder / "model", data, str(tmp_path), **{**settings, **options})

    return make


def test_a_resumed_run_keeps_the_measured_budget(
    resumed: Callable[..., RewardTrainer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another budget would give other sums in their last bits."""
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * 10**6)
    first = resumed(max_steps=1)
    first.train()
    assert 1 < first.budget.tokens < memory.CPU_TOKENS
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**9)
    again = resumed(max_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert (again.budget.tokens, again.budget.kept) == (first.budget.tokens, first.budget.kept)
    fresh = resumed(max_steps=1)
    fresh.train()
    assert fresh.budget.tokens == memory.CPU_TOKENS


@pytest.mark.distributed
def test_two_processes_agree_when_one_runs_out(world: Any, tmp_path: Path) -> None:
    """The second process fails once in each pass of a step; both take it again and end with the same weights."""
    folder, _, expected = world
    worker = Path(__file__).with_name("memory_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(worker)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [str(folder / "model"), str(tmp_path), str(STEPS)]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for name in ("pass 1", "pass 2", "kept"):
        saved = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
        assert [one["raised"] for one in saved] == [0, 1], name
        assert saved[0]["budget"] == saved[1]["budget"]
        assert (saved[0]["budget"][0] < 200) == (name != "kept")
        assert (saved[0]["budget"][1] > 0) == (name == "kept")
        for one in saved:
            assert exactness.worst(one["weights"], expected) < WEIGHT_TOLERANCE, name


def test_exact_backward_leaves_no_scores_behind() -> None:
    """What ran out of memory is told, not swallowed."""
    model = Linear()

    def score(rows: torch.Tensor) -> Any:
        raise OUT_OF_MEMORY

    with pytest.raises(OutOfMemory):
        exact_backward(score, model.batches(6, 6), 12, model.objective)
    assert model.weight.grad is None


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("weights", ["float32", "float32 under autocast", "bfloat16"])
def test_the_estimate_of_a_layer_is_what_autograd_saves(family: str, weights: str) -> None:
    saved, numbers, tokens = [], [], 64
    kind = transformers.Qwen3Config if family == "qwen3" else transformers.LlamaConfig
    for layers in (1, 2):
        config = kind(
            hidden_size=64, intermediate_size=160, num_hidden_layers=layers, num_attention_heads=8,
            num_key_value_heads=2, head_dim=16, vocab_size=32, pad_token_id=0,
        )  # fmt: skip
        model = transformers.AutoModel.from_config(config).train()
        model = model.bfloat16() if weights == "bfloat16" else model
        kept = [*model.parameters(), *model.buffers()]
        with memory._saved_bytes(kept) as found, torch.autocast("cpu", torch.bfloat16, enabled="auto" in weights):
            model(torch.randint(0, 32, (1, tokens)), use_cache=False)
        saved.append(sum(found.values()))
        numbers.append(sum(p.numel() for p in model.parameters() if p.dim() == 2))
    copies = 2 * (numbers[1] - numbers[0]) if "auto" in weights else 0  # they are counted beside the weights
    layer = (saved[1] - saved[0] - copies) / tokens
    sizes = (4 if "float32" in weights else 2, 4 if weights == "float32" else 2)
    assert memory.activation_bytes(config, *sizes) / 2 == pytest.approx(layer, rel=0.03)


def test_moments_by_dtype_and_optimiser() -> None:
    weights = [torch.zeros(10), torch.zeros(4, dtype=torch.bfloat16)]
    assert memory.pending_bytes(weights) == 10 * (4 + 8) + 4 * (2 + 4)
    assert memory.pending_bytes(weights, "adafactor") == 10 * 4 + 4 * 2
    optimiser = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimiser.step()
    held = [optimiser.state[weight][name] for weight in weights for name in ("exp_avg", "exp_avg_sq")]
    assert sum(m.numel() * m.element_size() for m in held) == 10 * 8 + 4 * 4
