"""What the system refuses: one line, the right exit code, and the old content as it was."""

from __future__ import annotations

import errno
import os

import pytest

from odin_rm.core import atomic
from odin_rm.core.atomic import append_jsonl, atomic_file, atomic_folder, atomic_write_text
from odin_rm.core.errors import ConfigError, MachineError, OutputError
from odin_rm.core.system import cannot_write, is_full, system_error, writing

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def raising(number: int):
    """A function that fails as the system does."""

    def fail(*arguments, **others):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", FULL)
@pytest.mark.parametrize("call", ["fsync", "replace", "makedirs"])
def test_a_full_disk_at_each_call(tmp_path, monkeypatch, number, call):
    (tmp_path / "a").write_text("old")
    if call == "makedirs":
        monkeypatch.setattr(atomic.Path, "mkdir", raising(number))
        target = tmp_path / "new" / "a"
    else:
        monkeypatch.setattr(atomic.os, call, raising(number))
        target = tmp_path / "a"
    with pytest.raises(MachineError, match=r"cannot be written.*MiB are free there.*Make room on the disk") as error:
        atomic_write_text(target, "new")
    assert error.value.exit_code == 1
    assert "What was there before is untouched" in str(error.value)
    assert str(target) in str(error.value)
    monkeypatch.undo()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "old"}


def test_a_full_disk_inside_the_block(tmp_path):
    for number in FULL:
        with pytest.raises(MachineError), atomic_file(tmp_path / "a"):
            raising(number)()
        with pytest.raises(MachineError), atomic_folder(tmp_path / "b"):
            raising(number)()
    assert list(tmp_path.iterdir()) == []


def test_an_append_that_fails_leaves_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "log"
    append_jsonl(path, {"a": 1})

    class Half:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[:3])
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.file.close()

    real = atomic.Path.open
    monkeypatch.setattr(atomic.Path, "open", lambda self, *a, **k: Half(real(self, *a, **k)))
    with pytest.raises(MachineError, match="kept"):
        append_jsonl(path, {"a": 2})
    monkeypatch.undo()
    assert path.read_text() == '{"a": 1}\n'


@pytest.mark.parametrize(
    "said",
    [
        "[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0",
        "PytorchStreamWriter failed writing file data/0: file write failed",
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "database or disk is full",
        "basic_ios::clear: iostream error",
    ],
)
def test_what_libraries_say_of_a_full_disk(tmp_path, said):
    assert is_full(RuntimeError(said))
    with pytest.raises(MachineError), writing(tmp_path / "a"):
        raise RuntimeError(said)
    told = system_error(RuntimeError(said), "Go on.")
    assert told is not None
    assert told.exit_code == 1
    assert str(told).endswith("Go on.")


def test_whose_fault_it_is(tmp_path):
    for number, code in {
        errno.ENAMETOOLONG: 2,
        errno.EACCES: 2,
        errno.ENOTDIR: 2,
        errno.EIO: 1,
        errno.EMFILE: 1,
    }.items():
        assert cannot_write(tmp_path, OSError(number, os.strerror(number))).exit_code == code
        told = system_error(OSError(number, os.strerror(number), str(tmp_path)))
        assert told is not None
        assert told.exit_code == code
    assert isinstance(system_error(ValueError("embedded null byte")), ConfigError)
    assert isinstance(system_error(MemoryError()), MachineError)
    for ours in (ValueError("x"), KeyError("y"), OSError("no number"), RuntimeError("a bug")):
        assert system_error(ours) is None


def test_an_error_of_ours_passes_as_it_is(tmp_path):
    with pytest.raises(OutputError, match="mine"), writing(tmp_path):
        raise OutputError("mine")
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("a bug")


@pytest.mark.parametrize("name", ["n" * 300, "ä" * 120, "a/" * 2500 + "b"])
def test_names_that_are_too_long(tmp_path, name):
    if len(os.fsencode(name)) < 255:  # the name is fine, and so must be what is made beside it
        atomic_write_text(tmp_path / name, "x")
        assert os.listdir(tmp_path) == [name]
        return
    with pytest.raises(OutputError, match="Give a shorter path") as error:
        atomic_write_text(tmp_path / name, "x")
    assert error.value.exit_code == 2
    assert len(str(error.value)) < 400
