"""The examination: each check says what it found and, where something is amiss, how to mend it.

Nothing is asked of the network. A check that fails is of something without which commands stop; what only some of them
need is a note.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from odin_rm.core.errors import OdinError
from odin_rm.core.reading import read_text
from odin_rm.data.cache import default_cache_dir
from odin_rm.data.cache_size import GIB, cache_entries, cache_limit

PACKAGE = "odin-rm"
IMPORTED = ("torch", "transformers", "tokenizers", "safetensors")
"""Packages with compiled parts, which may be installed and yet not work."""
NOT_FOR_USERS = ("test",)
LITTLE_MEMORY, LITTLE_DISK = 2 * GIB, GIB


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        group: ``versions``, ``accelerator``, ``extras``, ``memory``, ``cache`` or ``places``.
        name: what was looked at.
        status: ``ok``; ``note``, which some commands mind; ``fail``, which stops all.
        value: what was found.
        fix: how to mend it.
    """

    group: str
    name: str
    status: Literal["ok", "note", "fail"]
    value: str
    fix: str = ""


def examine() -> list[Finding]:
    """All checks, in order."""
    return [*_versions(), *_accelerator(), *_extras(), *_memory(), *_cache(), *_places()]


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """``ok`` and the ``findings``."""
    return {"ok": healthy(findings), "findings": [asdict(finding) for finding in findings]}


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.status != "fail" for finding in findings)


# ---- versions --------------------------------------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    machine = f"{platform.system()} {platform.machine()}"
    yield Finding("versions", "Python", "ok", f"{platform.python_version()} on {machine}")
    try:
        required = importlib.metadata.requires(PACKAGE) or []
        yield Finding("versions", PACKAGE, "ok", importlib.metadata.version(PACKAGE))
    except importlib.metadata.PackageNotFoundError:
        fix = "Install it: pip install . in its checkout."
        yield Finding("versions", PACKAGE, "note", "runs from its source without being installed", fix)
        return
    for name, wanted, extra in _requirements(required):
        if not extra:
            yield _package("versions", name, wanted)


def _requirements(lines: list[str]) -> Iterator[tuple[str, Any, str]]:
    """Name, range of versions and extra (or nothing) of each requirement that holds on this machine."""
    from packaging.requirements import Requirement

    extras = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            yield requirement.name, requirement.specifier, ""
            continue
        for extra in extras:
            if marker.evaluate({"extra": extra}):
                yield requirement.name, requirement.specifier, extra


def _package(group: str, name: str, wanted: Any) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(group, name, "fail", "is not installed", f"pip install '{name}{wanted}'")
    if not wanted.contains(version, prereleases=True):
        return Finding(group, name, "fail", f"{version}, but {wanted} is needed", f"pip install '{name}{wanted}'")
    if name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a library that does not load has many ways to say so
            what = f"{version} cannot be imported ({' '.join(str(error).split())[:200]})"
            return Finding(group, name, "fail", what, f"pip install --force-reinstall '{name}=={version}'")
    return Finding(group, name, "ok", version)


# ---- what there is ---------------------------------------------------------------------------------------------------


def _accelerator() -> Iterator[Finding]:
    try:
        import torch
    except Exception:  # said under versions
        return
    kind = "cpu"
    if torch.cuda.is_available():
        kind = "cuda"
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            value = f"{about.name}, {about.total_memory / GIB:,.1f} GiB, CUDA {torch.version.cuda or torch.version.hip}"
            yield Finding("accelerator", f"cuda:{number}", "ok", value)
    elif torch.backends.mps.is_available():
        kind = "mps"
        yield Finding("accelerator", "mps", "ok", "Apple GPU")
    else:
        yield Finding("accelerator", "none", "ok", f"CPU only, {torch.get_num_threads()} threads")
    try:
        ones = torch.ones(8, 8, device=kind)
        product = float((ones @ ones).sum())
    except Exception as error:  # drivers have many ways to fail
        fix = "Mend the driver, or hide the device: CUDA_VISIBLE_DEVICES= odin-rm ..."
        yield Finding("accelerator", f"a product on {kind}", "fail", " ".join(str(error).split())[:200], fix)
        return
    status: Literal["ok", "fail"] = "ok" if product == 512 else "fail"
    yield Finding("accelerator", f"a product on {kind}", status, "is right" if status == "ok" else f"gives {product}")


def _extras() -> Iterator[Finding]:
    try:
        lines = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return
    parts: dict[str, list[Finding]] = {}
    for name, wanted, extra in _requirements(lines):
        if extra and extra not in NOT_FOR_USERS:
            parts.setdefault(extra, []).append(_package("extras", name, wanted))
    for extra, found in sorted(parts.items()):
        lacking = [f"{one.name} {one.value}" for one in found if one.status != "ok"]
        if lacking:
            yield Finding("extras", extra, "note", "; ".join(lacking), f"pip install '.[{extra}]'")
        else:
            yield Finding("extras", extra, "ok", ", ".join(f"{one.name} {one.value}" for one in found))


def _memory() -> Iterator[Finding]:
    memory = _main_memory()
    if memory is not None:
        free, total = memory
        value = f"{free / GIB:,.1f} of {total / GIB:,.1f} GiB free"
        if free < LITTLE_MEMORY:
            yield Finding("memory", "main memory", "note", value, "Close other programs.")
        else:
            yield Finding("memory", "main memory", "ok", value)


def _main_memory() -> tuple[int, int] | None:
    """Free and all bytes, where the system says so."""
    try:
        lines = read_text("/proc/meminfo").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return sizes["MemAvailable"], sizes["MemTotal"]
    except (OdinError, ValueError, KeyError, IndexError):
        pass
    try:
        page, total = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        return page * os.sysconf("SC_AVPHYS_PAGES"), page * total
    except (ValueError, OSError, AttributeError):
        return None


def _cache() -> Iterator[Finding]:
    folder = default_cache_dir()
    entries = cache_entries(folder)
    size = sum(entry.size for entry in entries) / GIB
    try:
        bound = f"kept below {cache_limit() / GIB:g} GiB"
    except OdinError as error:
        yield Finding("cache", "tokenised data", "fail", str(error), error.fix)
        return
    yield Finding("cache", "tokenised data", "ok", f"{len(entries):,} data sets, {size:,.2f} GiB, {bound} ({folder})")


def _places() -> Iterator[Finding]:
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    places = {
        "working folder": (Path.cwd(), "note", "Give --output a place elsewhere."),
        "cache": (default_cache_dir(), "note", "Set ODIN_RM_CACHE to a folder that can be written."),
        "models of the hub": (Path(hub).expanduser(), "note", "Set HF_HOME to a folder that can be written."),
        "temporary files": (Path(tempfile.gettempdir()), "fail", "Set TMPDIR to a folder that can be written."),
    }
    for name, (place, status, fix) in places.items():
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        if not (there.is_dir() and writable(there)):
            yield Finding("places", name, status, f"{place} cannot be written", fix)  # type: ignore[arg-type]
            continue
        free = shutil.disk_usage(there).free
        value = f"{place}, {free / GIB:,.1f} GiB free"
        if free < LITTLE_DISK:
            yield Finding("places", name, "note", value, "Make room there.")
        else:
            yield Finding("places", name, "ok", value)


def writable(folder: Path) -> bool:
    """Whether a file can be made there; permissions alone do not tell of a read-only disk."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".odin-rm-doctor-"):
            return True
    except OSError:
        return False
