"""Output folders: ours, foreign, half-written; one writer; nothing foreign deleted, nothing old lost by a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from odin_rm.core.errors import MachineError, MissingFileError, OutputError
from odin_rm.core.lock import WriterLock
from odin_rm.runs import output_folder
from odin_rm.runs.output_folder import (
    KINDS,
    LOCK,
    MARK,
    REPLACED,
    OutputFolder,
    check_output_folder,
    kind_of,
    replaced_folder,
    replaced_model,
    was_cut_short,
    writer_of,
)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text; the lock is none of the content."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def audit(folder: Path, text: str = "new") -> None:
    with replaced_folder(folder, "audit") as stage:
        (stage / "audit.json").write_text(text)
        (stage / "report.html").write_text(text)


def finished_run(folder: Path) -> Path:
    """A reward run that is done."""
    with OutputFolder(folder, "reward") as output:
        output.claim()
        (folder / "config.yaml").write_text("seed: 1")
        (folder / "metrics.jsonl").write_text('{"step": 1}\n')
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("old")
        (folder / "checkpoints" / "checkpoint-5").mkdir(parents=True)
        (folder / "checkpoints" / "checkpoint-5" / "state").write_text("old")
        output.complete()
    return folder


# ---- whose it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", KINDS)
@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "audit.json", "summary.json", "model"])
def test_a_folder_that_no_odin_rm_made_is_never_replaced(tmp_path, command, name):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    if name != "model":
        (tmp_path / name).write_text("mine")
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=f"{name}.*which odin-rm did not write there") as error:
            check_output_folder(tmp_path, command, overwrite=overwrite, resume=overwrite)
        assert "\n" not in str(error.value)
    assert tree(tmp_path) == before


def test_an_empty_folder_and_one_with_other_things_may_be_used(tmp_path):
    check_output_folder(tmp_path / "a" / "b", "reward")
    assert not (tmp_path / "a").exists()
    (tmp_path / "notes.txt").write_text("mine")
    check_output_folder(tmp_path, "reward")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        check_output_folder(tmp_path, "export")


@pytest.mark.parametrize("command", ["audit", "export", "judge", "study", "pareto", "retention", "rivals", "sweep"])
def test_a_run_is_no_place_for_anything_else(tmp_path, command):
    run = finished_run(tmp_path / "run")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds another run"):
            check_output_folder(run, command, overwrite=overwrite)


@pytest.mark.parametrize("command", ["sft", "dpo", "rl", "reward"])
def test_runs_may_replace_one_another_when_asked(tmp_path, command):
    run = finished_run(tmp_path / "run")
    with pytest.raises(OutputError, match=r"already holds another run \(config.yaml, metrics.jsonl.*--overwrite"):
        check_output_folder(run, command)
    check_output_folder(run, command, overwrite=True)
    check_output_folder(run, command, resume=True)


EARLIER = {
    "reward": {"config.yaml": "seed: 1", "metrics.jsonl": "", "model/config.json": "{}"},
    "rl": {"config.yaml": "seed: 1", "samples.jsonl": ""},
    "audit": {"config.yaml": "seed: 1", "audit.json": "{}"},
    "judge": {"config.yaml": "{candidate: a, baseline: b, judge: gold}", "judge.json": "{}"},
    "retention": {"config.yaml": "seed: 1", "results/a.json": "{}"},
    "reproduce": {"config.yaml": "policies: []"},
    "study": {"study.sqlite": ""},
    "pareto": {"pareto.json": '{"arms": {}}'},
    "sweep": {"sweep.json": "{}", "state/a": ""},
    "export": {"config.json": '{"id2label": {"0": "quality"}}'},
}


@pytest.mark.parametrize("command", EARLIER)
def test_folders_of_earlier_versions_are_known(tmp_path, command):
    for name, text in EARLIER[command].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    ours = command not in ("study", "pareto", "sweep", "export")
    assert kind_of(tmp_path) == (None if ours else command)
    (tmp_path / "environment.json").write_text('{"packages": {"odin-rm": "0.1"}}')
    assert kind_of(tmp_path) == command


def test_what_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("n" * 300), tmp_path / "a\0b"):
        with pytest.raises(OutputError) as error:
            OutputFolder(path, "reward", overwrite=True).claim()
        assert "\n" not in str(error.value)


# ---- one writer ------------------------------------------------------------------------------------------------------


def elsewhere(code: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines in another process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    run = tmp_path / "run"
    claim = f"from odin_rm.runs.output_folder import OutputFolder; OutputFolder({str(run)!r}, 'reward').claim()"
    with OutputFolder(run, "reward") as output:
        output.claim()
        assert f"process {os.getpid()} on" in elsewhere(claim).stderr
    assert not (run / LOCK).exists()
    assert elsewhere(claim).returncode == 0


def test_of_several_processes_the_first_one_looks_for_a_writer(tmp_path, monkeypatch):
    """Another one may come to the next run before the first has given the lock of the run before back."""
    run = tmp_path / "run"
    made = f"OutputFolder({str(run)!r}, 'reward')"
    check = f"from odin_rm.runs.output_folder import OutputFolder; {made}.check(resume=True)"
    with OutputFolder(run, "reward") as output:
        output.claim()
        for rank, told in (("0", True), ("1", False)):
            monkeypatch.setenv("RANK", rank)
            assert (f"process {os.getpid()} on" in elsewhere(check).stderr) is told
            assert "is writing there" in elsewhere(check.replace("check(", "claim(")).stderr  # whoever writes looks


def test_two_that_make_a_folder_in_one_go(tmp_path):
    code = f"from odin_rm.runs.output_folder import writer_of\nwith writer_of({str(tmp_path / 'a' / 'x')!r}): pass"
    with writer_of(tmp_path / "a" / "x"):
        assert f"process {os.getpid()} on" in elsewhere(code).stderr
    assert list(tmp_path.iterdir()) == []
    assert elsewhere(code).returncode == 0


def test_a_lock_of_a_dead_process_holds_nobody_back(tmp_path):
    (tmp_path / LOCK).write_text("process 1 on the moon")
    lock = WriterLock(tmp_path / LOCK, tmp_path)
    lock.refuse_others()
    with lock:
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / LOCK).exists()


# ---- made in one go --------------------------------------------------------------------------------------------------


def test_a_swap_takes_what_was_ours_and_keeps_the_rest(tmp_path):
    out = tmp_path / "out"
    audit(out, "old")
    (out / "notes.txt").write_text("mine")
    (out / "pay" / "deep").mkdir(parents=True)
    (out / "pay" / "deep" / "thesis.txt").write_text("mine")
    (out / "link").symlink_to("notes.txt")
    with replaced_folder(out, "audit") as stage:
        (stage / "audit.json").write_text("new")
    assert tree(out) == {
        MARK: (out / MARK).read_text(), "audit.json": "new", "link": "mine", "notes.txt": "mine",
        "pay/deep/thesis.txt": "mine",
    }  # fmt: skip
    assert json.loads((out / MARK).read_text()) == {"made_by": "odin-rm", "command": "audit", "files": ["audit.json"]}
    assert (out / "link").is_symlink()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_name_that_is_somebody_elses_is_not_taken(tmp_path):
    out = tmp_path / "out"
    with replaced_folder(out, "audit") as stage:
        (stage / "audit.json").write_text("old")
    (out / "report.html").write_text("mine")
    with pytest.raises(OutputError, match=r"'report.html' in it was not written by odin-rm"):
        audit(out)
    assert (out / "audit.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_where_the_user_stands_is_filled_and_not_swapped(tmp_path, monkeypatch):
    audit(tmp_path / "out", "old")
    monkeypatch.chdir(tmp_path / "out")
    here = os.stat(".").st_ino
    with replaced_folder(".", "audit") as stage:
        (stage / "audit.json").write_text("new")
    assert os.stat(tmp_path / "out").st_ino == here
    assert sorted(os.listdir(".")) == [MARK, "audit.json"]


def test_a_symlink_to_a_folder_stays_one(tmp_path):
    audit(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    audit(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "audit.json").read_text() == "new"


def test_without_the_call_that_exchanges_folders(tmp_path, monkeypatch):
    monkeypatch.setattr("odin_rm.core.atomic.exchange", lambda one, other: False)
    audit(tmp_path / "out", "old")
    audit(tmp_path / "out")
    assert (tmp_path / "out" / "audit.json").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_dead_processes_left_is_removed_and_what_lives_is_not(tmp_path):
    dead = tmp_path / ".out.12345-0123abcd.part"
    (dead / "deep").mkdir(parents=True)
    (tmp_path / ".other.1-0123abcd.part").mkdir()
    with replaced_folder(tmp_path / "out", "audit") as first:
        assert not dead.exists()
        with replaced_folder(tmp_path / "out", "audit") as second:
            (second / "a").write_text("x")
            assert first.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.1-0123abcd.part", "out"]


# ---- written in place ------------------------------------------------------------------------------------------------


def test_the_earlier_run_waits_until_the_new_one_is_done(tmp_path):
    run = finished_run(tmp_path / "run")
    (run / "model" / "thesis.txt").write_text("mine")
    (run / "report.html").write_text("mine")
    with OutputFolder(run, "reward", overwrite=True) as output:
        output.claim()
        assert tree(run / REPLACED) == {
            "config.yaml": "seed: 1", "metrics.jsonl": '{"step": 1}\n', "model/config.json": "old",
            "checkpoints/checkpoint-5/state": "old",
        }  # fmt: skip
        assert not (run / "config.yaml").exists()
        with replaced_model(run / "model") as place:
            (place / "config.json").write_text("new")
        output.complete()
    kept = {"model/config.json": "new", "model/thesis.txt": "mine", "report.html": "mine"}
    assert tree(run) == {MARK: (run / MARK).read_text()} | kept


def test_a_killed_overwrite_keeps_the_earlier_run_through_a_second_one(tmp_path):
    run = finished_run(tmp_path / "run")
    for _ in range(2):  # neither comes to its end
        with OutputFolder(run, "reward", overwrite=True) as output:
            output.claim()
            (run / "config.yaml").write_text("seed: 2")
    assert (run / REPLACED / "model" / "config.json").read_text() == "old"
    assert not (run / REPLACED / ".replaced").exists()


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_a_kill_while_the_earlier_run_is_moved_is_undone(tmp_path, monkeypatch, moves):
    run = finished_run(tmp_path / "run")
    before, real, done = tree(run), os.rename, []

    def rename(old, new):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(new)
        real(old, new)

    monkeypatch.setattr(output_folder.os, "rename", rename)
    with pytest.raises(KeyboardInterrupt), OutputFolder(run, "reward", overwrite=True) as output:
        output.claim()
    monkeypatch.setattr(output_folder.os, "rename", real)
    with OutputFolder(run, "reward") as output:
        output.claim(resume=True)
    assert tree(run) == before


def test_a_run_that_saved_nothing_is_begun_again(tmp_path):
    run = tmp_path / "run"
    with OutputFolder(run, "reward") as output:
        output.claim()
        (run / "config.yaml").write_text("half")
    with OutputFolder(run, "reward") as output:
        with pytest.raises(OutputError, match="already holds another run"):
            output.claim()
        output.claim(again=True)
    assert tree(run) == {MARK: (run / MARK).read_text()}


def test_a_run_that_is_done_is_not_begun_again_unasked(tmp_path):
    run = finished_run(tmp_path / "run")
    before = tree(run)
    with pytest.raises(OutputError, match="already holds another run"), OutputFolder(run, "reward") as output:
        output.claim(again=True)
    assert tree(run) == before


@pytest.mark.parametrize("moment", ["before the swap", "after it"])
def test_the_same_command_may_finish_what_a_kill_has_cut_short(tmp_path, moment):
    out = tmp_path / "out"
    if moment == "after it":
        audit(out)
    code = (
        f"import os\nfrom odin_rm.runs.output_folder import writer_of\n"
        f"with writer_of({str(out)!r}, 'same'): os.kill(os.getpid(), 9)"
    )
    assert elsewhere(code).returncode == -9
    assert was_cut_short(out, "same")
    assert not was_cut_short(out, "other")
    with writer_of(out, "same"):
        assert not was_cut_short(tmp_path / "elsewhere", "same")
    assert not was_cut_short(out, "same")
    assert not was_cut_short(tmp_path / "a\0b", "same")


@pytest.mark.parametrize("error", [MachineError("no space left"), OSError(28, "No space left on device")])
def test_the_same_command_may_finish_what_a_full_disk_has_cut_short(tmp_path, error):
    """The output is in its place already; the last thing that the command does no longer finds room."""
    out, other = tmp_path / "scores.jsonl", tmp_path / "other.jsonl"
    out.write_text("{}")
    with pytest.raises(type(error)), writer_of(out, "same"):
        raise error
    assert was_cut_short(out, "same")
    assert not was_cut_short(out, "other")
    with writer_of(out, "same"):
        pass
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(type(error)), writer_of(other, "same"):
        raise error  # nothing is there: nothing is left
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("error", [MissingFileError("no such file"), OutputError("no"), PermissionError(13, "Denied")])
def test_what_the_user_has_to_mend_leaves_no_lock(tmp_path, error):
    out = tmp_path / "scores.jsonl"
    out.write_text("{}")
    with pytest.raises(type(error)), writer_of(out, "same"):
        raise error
    assert not was_cut_short(out, "same")
    assert list(tmp_path.iterdir()) == [out]
