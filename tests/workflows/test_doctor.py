"""``odin-rm doctor``: each check can fail, says how to mend it, and decides the exit code."""

from __future__ import annotations

import importlib.metadata
import json
import stat
from pathlib import Path

import pytest

from odin_rm.cli.doctor import lines
from odin_rm.cli.main import main
from odin_rm.workflows.doctor import run as doctor
from odin_rm.workflows.doctor.run import Finding, examine, healthy


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def found(name: str) -> Finding:
    (finding,) = [finding for finding in examine() if finding.name == name]
    return finding


def test_a_sound_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] is True
    groups = [row["group"] for row in content["findings"]]
    assert list(dict.fromkeys(groups)) == ["versions", "accelerator", "extras", "memory", "cache", "places"]
    by_name = {row["name"]: row for row in content["findings"]}
    assert by_name["torch"]["value"] == importlib.metadata.version("torch")
    assert by_name["cache"]["status"] == "ok"
    extras = {row["name"] for row in content["findings"] if row["group"] == "extras"}
    assert extras == set(importlib.metadata.metadata("odin-rm").get_all("Provides-Extra")) - {"test"}
    assert extras >= {"judge", "peft", "retention", "study"}


def test_nothing_is_left_in_the_places_that_were_tried(tmp_path: Path) -> None:
    examine()
    assert list(tmp_path.iterdir()) == []


def requires(monkeypatch: pytest.MonkeyPatch, *requirements: str) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: list(requirements))


def test_a_missing_and_an_old_package_fail(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    requires(monkeypatch, "no-such-package>=1.0", "numpy>=999", "pyyaml>=1", "tomli; python_version < '3'")
    assert found("no-such-package") == Finding(
        "versions", "no-such-package", "fail", "is not installed", "pip install 'no-such-package>=1.0'"
    )
    assert found("numpy").value == f"{importlib.metadata.version('numpy')}, but >=999 is needed"
    assert found("pyyaml").status == "ok"
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "FAIL  no-such-package" in shown
    assert "Not healthy: mend no-such-package, numpy." in shown
    assert "next:" not in shown


def test_an_extra_that_is_not_there_is_a_note_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    requires(monkeypatch, "no-such-package>=1.0; extra == 'judge'", "numpy>=1; extra == 'peft'")
    judge, peft = found("judge"), found("peft")
    assert (judge.status, judge.fix) == ("note", "pip install '.[judge]'")
    assert judge.value == "no-such-package is not installed"
    assert peft.status == "ok"
    assert healthy(examine())


def test_a_library_that_cannot_be_imported_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError(f"lib{name}.so: undefined symbol")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    torch = found("torch")
    assert torch.status == "fail"
    assert "cannot be imported (libtorch.so: undefined symbol)" in torch.value


def test_places_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path / "file" / "below"))
    cache = found("cache")
    assert (cache.status, cache.fix) == ("note", "Set ODIN_RM_CACHE to a folder that can be written.")
    monkeypatch.setattr(doctor, "writable", lambda folder: False)
    assert found("temporary files").status == "fail"
    assert not healthy(examine())


def test_whether_a_folder_can_be_written(tmp_path: Path) -> None:
    assert doctor.writable(tmp_path)
    assert not doctor.writable(tmp_path / "nothing")
    assert stat.S_ISDIR(tmp_path.stat().st_mode)


def test_little_room_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_main_memory", lambda: (2**20, 2**34))
    memory = found("main memory")
    assert (memory.status, memory.value) == ("note", "0.0 of 16.0 GiB free")


def test_a_bound_of_the_cache_that_is_none_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODIN_RM_CACHE_GIB", "much")
    assert found("tokenised data").status == "fail"


def test_the_lines() -> None:
    findings = [
        Finding("versions", "a", "ok", "1.0"),
        Finding("extras", "long name", "note", "is missing", "pip install it"),
    ]
    assert lines(findings) == [
        "versions",
        "  ok    a          1.0",
        "extras",
        "  note  long name  is missing  ->  pip install it",
        "All is well; some commands would mind: long name.",
    ]
    assert lines(findings[:1])[-1] == "All is well."
