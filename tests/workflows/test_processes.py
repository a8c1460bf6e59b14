"""The whole reward command in two processes: one run folder, one voice, one end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from odin_rm.core.errors import DataError, OdinError
from odin_rm.core.ranks import fail_on_all_ranks
from tests.waiting import wait_until
from tests.workflows.conftest import read_metrics
from tests.workflows.test_train import weights

COMMAND = ["-m", "odin_rm.cli.main"]
ROOT = Path(__file__).resolve().parents[2]


def flags(bed: dict[str, Path], tmp_path: Path, run: str = "two", **options: object) -> list[str]:
    settings: dict[str, object] = {
        "model": bed["model"],
        "dataset": bed["train"],
        "output_dir": tmp_path / run,
        "cache_dir": tmp_path / f"cold_{run}",
        "batch_pairs": 16,
        "learning_rate": 1e-3,
        "max_steps": 8,
        "use_cpu": True,
        "save_strategy": "no",
        "microbatch_tokens": 512,
        **options,
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


class Processes:
    """Two processes as a launcher starts them, each with its own folder and its own exit code."""

    def __init__(self, arguments: list[str], folders: list[Path], command: str = "reward") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self.ranks = [
            subprocess.Popen(
                [sys.executable, *COMMAND, command, *arguments],
                cwd=folder,
                env={**environment(), **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, folder in enumerate(folders)
        ]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, alive=self.ranks)

    def finish(self) -> tuple[list[int], list[str]]:
        try:
            texts = [process.communicate(timeout=300) for process in self.ranks]
        finally:
            for process in self.ranks:
                process.kill()
        return [p.returncode for p in self.ranks], ["".join(text) for text in texts]


def ours(text: str) -> list[str]:
    return [line for line in text.splitlines() if "odin-rm" in line or "Traceback" in line]


@pytest.mark.distributed
def test_torchrun_gives_one_run_with_the_weights_of_one_process(
    bed: dict[str, Path], tmp_path: Path, train: Callable[..., Path]
) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    launch += ["--log-dir", str(tmp_path / "logs"), "--redirects", "3"]
    options = {"eval_dataset": bed["eval"], "eval_strategy": "steps", "eval_steps": 4}
    done = subprocess.run(
        [*launch, *COMMAND, "reward", *flags(bed, tmp_path, **options)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    logs = {(p.parent.name, p.stem): p.read_text() for p in (tmp_path / "logs").rglob("std*.log")}
    assert done.returncode == 0, done.stderr[-2000:] + str(logs)
    assert logs["0", "stdout"].strip().splitlines()[-2].startswith("Reward model written to ")
    assert logs["1", "stdout"] == logs["1", "stderr"] == ""

    two = tmp_path / "two"
    metrics = read_metrics(two)
    assert [row["step"] for row in metrics if "loss" in row] == list(range(1, 9))
    assert [row["step"] for row in metrics if "eval_accuracy" in row] == [4, 8]
    assert sum("finished" in row for row in metrics) == 1
    one = train("one", max_steps=8, **{**options, "eval_dataset": str(bed["eval"])})
    for name, tensor in weights(one).items():
        assert torch.allclose(weights(two)[name], tensor, rtol=1e-4, atol=1e-5), name
    for ours, theirs in zip(read_metrics(one), metrics, strict=True):
        assert ours.get("ranking_loss", 0.0) == pytest.approx(theirs.get("ranking_loss", 0.0), abs=1e-5)
        assert ours.get("eval_pearson", 0.0) == pytest.approx(theirs.get("eval_pearson", 0.0), abs=1e-4)


@pytest.mark.distributed
def test_what_one_process_lacks_ends_both_with_one_line(bed: dict[str, Path], tmp_path: Path) -> None:
    """The second process runs in a folder from which the file cannot be seen."""
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "data.jsonl").write_bytes(bed["train"].read_bytes())
    codes, texts = Processes(flags(bed, tmp_path, dataset="data.jsonl"), folders).finish()
    assert codes == [2, 2], texts
    (line,) = ours(texts[0])
    assert "data.jsonl" in line
    assert ours(texts[1]) == []
    assert not (tmp_path / "two").exists()


@pytest.mark.distributed
def test_a_signal_to_one_process_saves_and_ends_both(bed: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "two"
    processes = Processes(flags(bed, tmp_path, max_steps=100_000), [tmp_path, tmp_path])
    processes.wait_for((run / "metrics.jsonl").exists)
    processes.ranks[1].send_signal(signal.SIGTERM)
    codes, texts = processes.finish()
    assert codes == [130, 130], texts
    (line,) = ours(texts[0])
    assert "stopped by SIGTERM after step" in line
    assert ours(texts[1]) == []
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert {"trainer_state.json", "rng_state_0.pth", "rng_state_1.pth"} <= {p.name for p in checkpoint.iterdir()}
    assert f"after step {checkpoint.name.split('-')[1]}," in line
    assert not (run / "model").exists()


def test_alone_a_block_raises_what_happened() -> None:
    with pytest.raises(DataError, match="no rows") as caught, fail_on_all_ranks():
        raise DataError("no rows", where="file")
    assert caught.value.raised_on_every_rank is False
    with pytest.raises(ZeroDivisionError), fail_on_all_ranks():
        _ = 1 / 0


@pytest.mark.parametrize(
    "mine, theirs, raised, message",
    [
        (None, DataError("theirs"), DataError, "theirs"),
        (OdinError("mine"), DataError("theirs"), OdinError, "mine"),
        (KeyError("bug"), None, KeyError, "bug"),
    ],
)
def test_together_in_one_of_two_processes(
    monkeypatch: pytest.MonkeyPatch,
    mine: Exception | None,
    theirs: OdinError | None,
    raised: type[Exception],
    message: str,
) -> None:
    def gather(found: list, own: OdinError | None) -> None:
        assert own is None or isinstance(own, OdinError)
        found[:] = [own, theirs]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)

    def work() -> None:
        with fail_on_all_ranks():
            if mine is not None:
                raise mine

    with pytest.raises(raised, match=message) as caught:
        work()
    assert getattr(caught.value, "raised_on_every_rank", True)
