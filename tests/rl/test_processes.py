"""Two processes: the gradient of one, whole runs with DDP and FSDP2 that end in the same policy, one end for all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.rl.conftest import MakeConfig
from tests.rl.ranks_worker import gradient
from tests.workflows.test_processes import ROOT, Processes, environment, ours

pytestmark = pytest.mark.distributed

ALGORITHMS = ("ppo", "remax")
Settings = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def settings(bench: Path, room: Path) -> Settings:
    """Settings of a small run in a folder of the room."""

    def make(name: str, algorithm: str, **changes: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "algorithm": algorithm,
            "model": str(bench / "policy"),
            "reward": str(bench / "odin"),
            "prompts": str(bench / "prompts.jsonl"),
            "output_dir": str(room / name),
            "max_steps": 4,
            "minibatch_size": 4,
            "max_new_tokens": 8,
            "learning_rate": 1e-3,
            "watch_steps": 2,
            "watch_size": 3,
            "save_steps": 2,
            "use_cpu": True,
        }
        return values | changes

    return make


def of_gradient(settings: Settings, algorithm: str) -> dict[str, Any]:
    # Micro-batches of few tokens, so that ranks need different numbers of them; values that are not all 0.
    changes: dict[str, Any] = {"minibatch_size": 8, "microbatch_tokens": 60, "kl_place": "loss", "kl_estimator": "k2"}
    return settings("none", algorithm, **changes, **({"critic_init": "reward"} if algorithm == "ppo" else {}))


def two(module_arguments: list[str], folder: Path) -> None:
    """Run ``python -m ...`` as two processes under torchrun."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    launch += ["--log-dir", str(folder), "--redirects", "3", "-m", *module_arguments]
    path = os.pathsep.join([environment()["PYTHONPATH"], str(ROOT)])
    done = subprocess.run(launch, env=environment() | {"PYTHONPATH": path}, check=False, capture_output=True)
    said = "\n".join(p.read_text() for p in folder.rglob("std*.log"))
    assert done.returncode == 0, said[-3000:]


@pytest.fixture(scope="module", params=["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, room: Path, settings: Settings) -> str:
    """An engine under which two processes have left gradients and run folders in the room."""
    name = str(request.param)
    work: list[Any] = []
    for algorithm in ALGORITHMS:
        work.append(["gradient", of_gradient(settings, algorithm), str(room / f"{name}_{algorithm}.safetensors")])
        work.append(["train", settings(f"{name}_{algorithm}", algorithm), None])
    work.append(["train", settings(f"{name}_part", "ppo", max_steps=2), None])
    work.append(["train", settings(f"{name}_part", "ppo", resume_from_checkpoint="true"), None])
    work.append(["train", settings(f"{name}_lora", "ppo", lora_r=2, gradient_checkpointing=True), None])
    two(["tests.rl.ranks_worker", name, json.dumps(work)], room / f"{name}_logs")
    return name


def weights(run: Path, file: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(run / "policy" / file)


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=atol, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_gradient_is_that_of_one_process(engine: str, algorithm: str, room: Path, settings: Settings) -> None:
    from odin_rm.rl.config import RLConfig

    one = gradient(RLConfig(**of_gradient(settings, algorithm)))
    assert all(float(tensor.abs().max()) > 1e-5 for tensor in one.values())
    close(one, load_file(room / f"{engine}_{algorithm}.safetensors"), 2e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_leaves_one_whole_folder(engine: str, algorithm: str, room: Path, bench: Path) -> None:
    run = room / f"{engine}_{algorithm}"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "samples_seen" in row] == [1, 2, 3, 4]
    assert [row["samples_seen"] for row in rows if "samples_seen" in row] == [4, 8, 12, 16]
    assert [row["step"] for row in rows if "watch_kl" in row] == [0, 2, 4]
    assert sum("finished" in row for row in rows) == 1
    start = load_file(bench / "policy" / "model.safetensors")
    learnt = weights(run)
    assert learnt.keys() == start.keys()
    assert all(not torch.equal(learnt[name], tensor) for name, tensor in start.items())
    # The same prompts, seeds and gradients: engines differ by rounding alone.
    if engine == "fsdp2" and (room / f"ddp_{algorithm}").is_dir():
        close(weights(room / f"ddp_{algorithm}"), learnt, 1e-4)


def test_going_on_ends_in_the_same_policy(engine: str, room: Path) -> None:
    whole, part = weights(room / f"{engine}_ppo"), weights(room / f"{engine}_part")
    assert whole.keys() == part.keys()
    assert all(torch.equal(part[name], tensor) for name, tensor in whole.items())


def test_lora_trains_an_adapter(engine: str, room: Path) -> None:
    adapter = weights(room / f"{engine}_lora", "adapter_model.safetensors")
    assert adapter
    assert all(float(tensor.abs().max()) > 0 for name, tensor in adapter.items() if "lora_B" in name)


JUDGE = """
import os
calls = []
def judge(completions, **kwargs):
    calls.append(1)
    if BROKEN and os.environ["RANK"] == "1" and len(calls) > 1:
        raise ConnectionError("gone")
    return [float(len(text)) for text in completions]
"""


def flags(values: dict[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def test_what_fails_on_one_rank_ends_both_with_one_line_and_torchrun_goes_on(settings: Settings, room: Path) -> None:
    judge, run = room / "judge.py", room / "failing"
    judge.write_text(f"BROKEN = True{JUDGE}")
    values = settings("failing", "ppo", reward=f"{judge}:judge", standardise="none", watch_steps=0)
    codes, texts = Processes(flags(values), [room, room], "rl").finish()
    assert codes == [2, 2], texts
    (line,) = ours(texts[0])
    assert "gone" in line
    assert "before step 3 is saved" in line
    assert ours(texts[1]) == []
    judge.write_text(f"BROKEN = False{JUDGE}")
    resume = flags(values | {"resume_from_checkpoint": "true"})
    two(["odin_rm.cli.main", "rl", *resume], room / "failing_logs")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "samples_seen" in row] == [1, 2, 3, 4]
    said = {(p.parent.name, p.name): p.read_text() for p in (room / "failing_logs").rglob("stdout.log")}
    data, *_, written, following = said["0", "stdout.log"].splitlines()
    assert data == "prompts data: prompts.jsonl: 24 prompts, none left out."
    assert written == f"Policy written to {run / 'policy'}"
    assert following.startswith("next: odin-rm generate ")
    assert said["1", "stdout.log"] == ""


def test_a_signal_to_one_rank_saves_and_ends_both(settings: Settings, room: Path) -> None:
    run = room / "stopped"
    processes = Processes(flags(settings("stopped", "remax", max_steps=100_000)), [room, room], "rl")
    processes.wait_for((run / "metrics.jsonl").exists)
    processes.ranks[1].send_signal(signal.SIGTERM)
    codes, texts = processes.finish()
    assert codes == [130, 130], texts
    (line,) = ours(texts[0])
    assert "stopped by SIGTERM after step" in line
    assert ours(texts[1]) == []
    assert list((run / "checkpoints").glob("checkpoint-*/random_1.pt"))
    assert not (run / "policy").exists()


def test_a_batch_that_ranks_cannot_share_is_refused(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from odin_rm.core.errors import ConfigError
    from odin_rm.workflows.rl.own import _check_ranks

    ranks: Any = SimpleNamespace(size=3, accelerator=SimpleNamespace(state=SimpleNamespace()))
    with pytest.raises(ConfigError, match="3 processes cannot share evenly"):
        _check_ranks(make_config(), ranks)
