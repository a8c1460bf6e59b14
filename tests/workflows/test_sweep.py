"""Sweeps: which runs there are, that each is run once whatever is killed, and that a failed one disturbs no other."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from odin_rm.core.errors import ConfigError, MissingExtraError, OdinError, OutputError, RunInterrupted
from odin_rm.core.lock import file_lock
from odin_rm.workflows.sweep import engines as sweep_engines
from odin_rm.workflows.sweep import slurm as sweep_slurm
from odin_rm.workflows.sweep.config import SweepConfig
from odin_rm.workflows.sweep.run import draw_points, plan_runs, run_sweep
from tests.waiting import wait_until
from tests.workflows.fake_slurm import install_slurm
from tests.workflows.sweep_worker import FIELDS, MODULE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and runs by a command that is over at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setattr(sweep_engines, "WORKER", MODULE)
    return tmp_path


def words(file: str) -> list[str]:
    return Path(file).read_text().split() if Path(file).exists() else []


# ---- which runs ------------------------------------------------------------------------------------------------------


def test_a_grid_has_every_combination_and_random_draws_go_with_each() -> None:
    draws = {"samples": 3, "seed": 1, "fields": {"learning_rate": {"low": "1e-6", "high": 1e-4, "log": True}}}
    config = SweepConfig("out", base={"model": "m"}, grid={"algorithm": ["ppo", "remax"], "n": [1, 2]}, random=draws)
    runs = plan_runs(config)
    assert len({run.name for run in runs}) == 12
    drawn = [point["learning_rate"] for point in draw_points(draws)]
    assert [(r.varied["algorithm"], r.varied["n"], r.varied["learning_rate"]) for r in runs] == [
        (algorithm, n, rate) for algorithm in ("ppo", "remax") for n in (1, 2) for rate in drawn
    ]
    assert runs[0].settings == {"output": f"out/runs/{runs[0].name}", "model": "m"} | runs[0].varied
    assert runs[0].name.startswith("algorithm=ppo_n=1_learning_rate=")


def test_draws_are_in_their_ranges_repeatable_and_grow_at_the_end() -> None:
    fields = {"a": {"low": 1, "high": 3}, "b": {"low": 0.5, "high": 0.6}, "c": ["x", "y"]}
    fields |= {"d": {"low": 1e-6, "high": 1e-2, "log": True}}
    points = draw_points({"samples": 300, "seed": 0, "fields": fields})
    assert points[:50] == draw_points({"samples": 50, "seed": 0, "fields": fields})
    assert points[:50] != draw_points({"samples": 50, "seed": 1, "fields": fields})
    assert {point["a"] for point in points} == {1, 2, 3}
    assert {point["c"] for point in points} == {"x", "y"}
    assert all(0.5 <= point["b"] <= 0.6 for point in points)
    # Half of the logarithms lie below their middle.
    assert 110 < sum(point["d"] < 1e-4 for point in points) < 190


def test_the_papers_search_space_that_ships(room: Path) -> None:
    from odin_rm.cli.config import parse_config
    from odin_rm.cli.sweep import known_fields
    from odin_rm.rl.config import RLConfig

    file = str(ROOT / "examples" / "sweeps" / "paper_ppo.yaml")
    config = parse_config(SweepConfig, ["--config", file, "--output", "out"], "sweep")
    runs = plan_runs(config)
    assert len(runs) == 3 * 3 * 4 * 3 * 3
    assert set(runs[0].settings) <= known_fields("rl")
    Path("run.yaml").write_text(yaml.safe_dump(runs[0].settings))
    first = parse_config(RLConfig, ["--config", "run.yaml"], "rl")
    assert (first.learning_rate, first.clip_epsilon, first.kl_coef) == (5e-7, 0.1, 2.5e-3)
    assert (first.reward_clip, first.experience_size) == (float("inf"), 32)


def test_a_run_keeps_its_name_when_the_grid_grows() -> None:
    small = plan_runs(SweepConfig("out", grid={"x": [1, 2]}))
    large = plan_runs(SweepConfig("out", grid={"x": [0, 1, 2]}))
    assert [run.name for run in small] == [run.name for run in large[1:]]


def test_commands_that_write_a_file_get_it_inside_the_runs_folder() -> None:
    config = SweepConfig("out", command="generate", base={"output": "{run}/a.json"}, grid={"seed": [1]})
    (run,) = plan_runs(config)
    assert run.settings["output"] == f"out/runs/{run.name}/a.json"
    (run,) = plan_runs(SweepConfig("out", command="audit", grid={"model": ["runs/a/model"]}))
    assert run.settings["output"] == f"out/runs/{run.name}"
    assert "/" not in run.name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grid": {}}, "--config: there is nothing to vary"),
        ({"grid": {"x": 3}}, "grid: x: is no list of values"),
        ({"grid": {"x": [1]}, "base": {"x": 2}}, "x: is in base and in grid"),
        ({"grid": {"x": [1, 1]}}, "two runs have the settings x=1"),
        ({"grid": {"x": [1]}, "workers": 0}, "it is 0"),
        ({"grid": {"x": [1]}, "max_hours": 0.0}, "it is 0.0"),
        ({"grid": {"z": [1]}}, "odin-rm rl has no field 'z'"),
        ({"random": {"fields": {"x": [1]}}}, "random: samples: is None"),
        ({"random": {"samples": 1}}, "random: fields: names no field"),
        ({"random": {"samples": 1, "field": {}}}, "random: unknown key 'field'"),
        ({"random": {"samples": 1, "fields": {"x": {"low": 2, "high": 1}}}}, "random: x: is neither"),
        ({"random": {"samples": 1, "fields": {"x": {"low": 1, "high": math.inf}}}}, "random: x: is neither"),
        ({"random": {"samples": 1, "fields": {"x": {"low": 1, "high": 2, "log": "no"}}}}, "random: x: is neither"),
        ({"random": {"samples": 1, "fields": {"x": {"low": 0, "high": 1, "log": True}}}}, "random: x: is neither"),
    ],
)
def test_unusable_sweeps_are_refused_before_anything_is_written(room: Path, settings: dict, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        run_sweep(SweepConfig("out", **settings), FIELDS)
    assert said in str(error.value)
    assert not Path("out").exists()


def test_a_folder_of_something_else_and_a_sweep_under_way(room: Path) -> None:
    Path("other").mkdir()
    Path("other/file").touch()
    with pytest.raises(OutputError, match="holds something else than a sweep"):
        run_sweep(SweepConfig("other", grid={"x": [1]}), FIELDS)
    Path("out/state").mkdir(parents=True)
    with file_lock(Path("out/state/.lock")), pytest.raises(OutputError, match="another sweep is under way"):
        run_sweep(SweepConfig("out", grid={"x": [1]}), FIELDS)


def test_ray_is_an_extra(room: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="ray") as error:
        run_sweep(SweepConfig("out", grid={"x": [1]}, engine="ray"), FIELDS)
    assert isinstance(error.value, OdinError)
    assert not Path("out").exists()


@pytest.mark.slow
def test_24_runs_through_ray(room: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install '.[ray]'")
    config = SweepConfig("out", grid={"x": [0, 1, 3], "y": list(range(8))}, workers=2, engine="ray", max_runs=10)
    assert run_sweep(config, FIELDS)["waiting"] == 14
    config.max_runs = None
    table = run_sweep(config, FIELDS)
    assert (table["done"], table["failed"], table["waiting"]) == (16, 8, 0)
    assert set(Counter(words("starts")).values()) == {1}
    assert len(words("starts")) == 24


# ---- running them ----------------------------------------------------------------------------------------------------


def test_failed_runs_disturb_no_other_and_are_listed(room: Path) -> None:
    config = SweepConfig("out", grid={"x": [3, 4, 5, 6, 0]}, workers=3)
    table = run_sweep(config, FIELDS)
    assert [table[status] for status in ("done", "failed", "waiting")] == [1, 3, 1]
    assert [row["error"] for row in table["runs"]] == [
        *("odin-rm rl: error: --x: is 3. Give less.", "ValueError: x", "killed by signal 9", None, None)
    ]
    assert json.loads(Path("out/sweep.json").read_text()) == table
    done = table["runs"][4]
    assert yaml.safe_load(Path("out", done["folder"], "result").read_text()) == {
        **{"output": f"out/{done['folder']}", "x": 0}
    }
    # Those that failed are left alone until asked for; the interrupted one is not done.
    run_sweep(config, FIELDS)
    assert sorted(Counter(words("starts")).values()) == [1, 1, 1, 1, 2]
    config.retry_failed = True
    run_sweep(config, FIELDS)
    assert sorted(Counter(words("starts")).values()) == [1, 2, 2, 2, 3]


@pytest.mark.parametrize("content", ["{cut", "[]", "{}", '{"code": "x", "seconds": 1}'])
def test_a_note_that_no_run_wrote(room: Path, content: str) -> None:
    config = SweepConfig("out", grid={"x": [0]})
    run_sweep(config, FIELDS)
    (note,) = Path("out/state").glob("*.json")
    note.write_text(content)
    with pytest.raises(OutputError, match="is not what a run notes at its end"):
        run_sweep(config, FIELDS)


def test_a_budget_of_runs_and_of_hours(room: Path) -> None:
    config = SweepConfig("out", grid={"x": [0, 1, 2]}, max_hours=1e-12)
    assert run_sweep(config, FIELDS)["waiting"] == 3
    config = SweepConfig("out", grid={"x": [0, 1, 2]}, max_runs=2)
    assert [run_sweep(config, FIELDS)["done"] for _ in range(2)] == [2, 3]
    assert len(words("starts")) == len(words("ends")) == 3


def ended() -> set[str]:
    return {path.stem for path in Path("out/state").glob("*.json")}


class Sweeps:
    """A sweep of 24 runs as a process, ended by a signal when so many runs have ended."""

    def __init__(self) -> None:
        self.started_of_ended: dict[str, int] = {}

    def sweep(self, until: int, end: signal.Signals | None, *, children: bool = False) -> None:
        process = subprocess.Popen([sys.executable, "-m", MODULE], stderr=subprocess.DEVNULL)
        wait_until(lambda: len(ended()) >= until)
        if end is not None:
            under = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            pids = [int(pid) for pid in under.read_text().split()] if children else []
            for pid in (process.pid, *pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, end)
        process.wait(300)
        starts = Counter(words("starts"))
        for name in ended() - self.started_of_ended.keys():
            self.started_of_ended[name] = starts[name]

    def check(self, most_cut_off: int) -> None:
        """What had noted its end was never started again; at most so many runs were cut off and started anew."""
        table = json.loads(Path("out/sweep.json").read_text())
        starts = Counter(words("starts"))
        print(f"\n24 runs: started {sum(starts.values())} times")
        assert (table["done"], table["failed"], table["waiting"]) == (24, 0, 0)
        assert {row["name"] for row in table["runs"]} == set(words("ends")) == ended()
        assert len(words("ends")) == 24
        assert starts == self.started_of_ended
        assert sum(starts.values()) <= 24 + most_cut_off


@pytest.mark.slow
def test_24_runs_killed_twice_and_interrupted_once_are_each_done_once(room: Path) -> None:
    sweeps = Sweeps()
    sweeps.sweep(5, signal.SIGKILL)  # the runs under way outlive it
    sweeps.sweep(11, signal.SIGKILL, children=True)
    sweeps.sweep(17, signal.SIGTERM)
    sweeps.sweep(24, None)
    sweeps.check(most_cut_off=4)  # two by the kill of all, and two at most by the signal


@pytest.mark.slow
def test_24_runs_through_ray_whose_sweep_is_killed_twice_are_each_done_once(room: Path, monkeypatch) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install '.[ray]'")
    monkeypatch.setenv("SWEEP_ENGINE", json.dumps({"engine": "ray"}))
    sweeps = Sweeps()
    sweeps.sweep(6, signal.SIGKILL)
    sweeps.sweep(14, signal.SIGKILL)
    sweeps.sweep(24, None)
    sweeps.check(most_cut_off=4)  # Ray may take what is under way down with it


# ---- Slurm -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def slurm(room: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that do as Slurm's do, on this machine."""
    submitit = pytest.importorskip("submitit", reason="submitit is an extra: pip install '.[slurm]'")
    # It remembers how jobs ended, and here each test counts its jobs from 1.
    monkeypatch.setattr(submitit.SlurmJob, "watcher", type(submitit.SlurmJob.watcher)(delay_s=600))
    jobs = install_slurm(room / "slurm")
    monkeypatch.setenv("PATH", str(room / "slurm" / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    return jobs


def test_runs_as_jobs_of_slurm(slurm: Path) -> None:
    settings = {"slurm_partition": "gpu", "gpus_per_node": 1, "timeout_min": 90}
    config = SweepConfig("out", grid={"x": [0, 3, 6]}, workers=3, engine="slurm", slurm=settings)
    table = run_sweep(config, FIELDS)
    assert [row["status"] for row in table["runs"]] == ["done", "failed", "waiting"]
    assert table["runs"][1]["error"] == "odin-rm rl: error: --x: is 3. Give less."
    script = (slurm / "1.sh").read_text()
    for line in ("--partition=gpu", "--gpus-per-node=1", "--time=90", "--job-name=odin-rm"):
        assert f"#SBATCH {line}" in script
    assert len(words("starts")) == 3


def test_a_job_that_slurm_ends_is_listed_and_one_that_is_cancelled_waits(slurm: Path, monkeypatch) -> None:
    monkeypatch.setattr(sweep_slurm, "PAUSE", 0.01)
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)
    (slurm / "refuse").write_text("TIMEOUT\nCANCELLED by 1000\n")
    config = SweepConfig("out", grid={"x": [0, 1]}, workers=1, engine="slurm")
    table = run_sweep(config, FIELDS)
    assert [row["status"] for row in table["runs"]] == ["failed", "waiting"]
    assert table["runs"][0]["error"].startswith("odin-rm sweep: error: job 1 ended as TIMEOUT")
    config.retry_failed = True
    assert run_sweep(config, FIELDS)["done"] == 2


def test_a_sweep_that_goes_on_waits_for_the_jobs_that_it_handed_in(slurm: Path, monkeypatch) -> None:
    """Both jobs of a sweep that dies are found again, and nothing is handed in twice."""
    config = SweepConfig("out", base={"seconds": 1.0}, grid={"x": [0, 1]}, workers=2, engine="slurm")
    with monkeypatch.context() as patch:
        patch.setattr(sweep_slurm.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(RunInterrupted, match="0 of 2 runs have ended"):
            run_sweep(config, FIELDS)
    assert run_sweep(config, FIELDS)["done"] == 2
    assert len(words("starts")) == len(list(slurm.glob("*.sh"))) == 2


def test_submitits_local_jobs_as_a_trial(slurm: Path) -> None:
    config = SweepConfig("out", grid={"x": [0, 3]}, workers=2, engine="slurm", slurm={"cluster": "local"})
    table = run_sweep(config, FIELDS)
    assert [row["status"] for row in table["runs"]] == ["done", "failed"]
    assert list(slurm.glob("*.sh")) == []


@pytest.mark.slow
def test_24_runs_through_slurm_whose_sweep_is_killed_twice_are_each_done_once(slurm: Path, monkeypatch) -> None:
    monkeypatch.setenv("SWEEP_ENGINE", json.dumps({"engine": "slurm"}))
    sweeps = Sweeps()
    sweeps.sweep(6, signal.SIGKILL)
    sweeps.sweep(14, signal.SIGKILL)
    sweeps.sweep(24, None)
    sweeps.check(most_cut_off=0)  # jobs belong to Slurm
    print(f"24 runs: {len(list(slurm.glob('*.sh')))} jobs")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "local", "slurm": {"timeout_min": 5}}, "slurm: has no effect: --engine is local"),
        ({"slurm": {"timeout_min": "long"}}, "slurm: submitit refuses it ("),
        ({"slurm": {"slurm_partitoin": "gpu"}}, "slurm: submitit refuses it ("),
        ({"slurm": {"nodes": 2}}, "slurm: nodes: is 2. A run is one task on one node."),
    ],
)
def test_settings_of_slurm_that_cannot_work(slurm: Path, settings: dict, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        run_sweep(SweepConfig("out", **({"grid": {"x": [1]}, "engine": "slurm"} | settings)), FIELDS)
    assert str(error.value).startswith(said)
    assert not Path("out").exists()


def test_a_machine_without_slurm_and_one_without_submitit(room: Path, monkeypatch) -> None:
    config = SweepConfig("out", grid={"x": [1]}, engine="slurm")
    monkeypatch.setenv("PATH", str(room))
    with pytest.raises(ConfigError, match="srun"):
        run_sweep(config, FIELDS)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingExtraError, match="submitit") as error:
        run_sweep(config, FIELDS)
    assert ".[slurm]" in str(error.value)
    assert not Path("out").exists()
