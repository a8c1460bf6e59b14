"""What the project must not contain: machine paths, blunt tests, silent skips."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LARGEST_TOLERANCE = 0.1
TOLERANCES = {"rtol", "atol", "rel", "abs", "rel_tol", "abs_tol", "rel_error", "abs_error"}

# Absolute paths of somebody's machine and addresses of package mirrors. Written in pieces, so that this file passes.
FOLDERS = ["/" + name + "/" for name in ("work", "home", "root", "Users", "opt")]
MIRRORS = r"https?://(?!py" + r"pi\.org)[\w.-]*(?:py" + "pi|artifact" + "ory|nex" + r"us)[\w.-]*"
FORBIDDEN = re.compile("|".join([*FOLDERS, "extra-" + "index", r"localhost:\d", MIRRORS]))


def project_files() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so the project's own files are unknown")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""  # a picture


def test_no_machine_paths_and_no_registry_addresses():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in project_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if (match := FORBIDDEN.search(line))
    ]
    assert found == []


@pytest.mark.parametrize("text", ["cd /" + "work/x", "/" + "home/me", "https://py" + "pi.example.org/simple"])
def test_the_path_check_can_fail(text):
    assert FORBIDDEN.search(text)


def test_no_large_files_in_the_project():
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in project_files()}
    assert {name: size for name, size in large.items() if size > 1_000_000} == {}


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def blunt_tolerances(tree: ast.AST):
    for _, call in calls(tree):
        for keyword in call.keywords:
            if keyword.arg in TOLERANCES and isinstance(keyword.value, ast.Constant):
                value = keyword.value.value
                if isinstance(value, (int, float)) and value > LARGEST_TOLERANCE:
                    yield f"line {call.lineno}: {keyword.arg}={value}"


def test_no_test_is_too_tolerant_to_fail():
    blunt = {str(p.relative_to(ROOT)): found for p in TESTS if (found := [*blunt_tolerances(ast.parse(text_of(p)))])}
    assert blunt == {}


def test_the_tolerance_check_can_fail():
    assert [*blunt_tolerances(ast.parse("approx(1, abs=0.5); allclose(a, b, rtol=1e-3)"))] == ["line 1: abs=0.5"]


def silent_skips(tree: ast.AST):
    for name, call in calls(tree):
        last = name.split(".")[-1]
        reason = [k for k in call.keywords if k.arg == "reason"]
        if last == "skip" and name.split(".")[0] == "pytest" and not (call.args or reason):
            yield call.lineno
        if last in ("skipif", "importorskip", "xfail") and "pytest" in name and not reason:
            yield call.lineno


def test_every_skip_says_why():
    silent = {str(p.relative_to(ROOT)): found for p in TESTS if (found := [*silent_skips(ast.parse(text_of(p)))])}
    assert silent == {}


def test_the_skip_check_can_fail():
    tree = ast.parse("pytest.skip()\npytest.importorskip('x')\npytest.skip('why')\npytest.mark.skipif(a, reason='b')")
    assert [*silent_skips(tree)] == [1, 2]


def test_every_test_asserts_something():
    idle = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in TESTS
        for node in ast.walk(ast.parse(text_of(path)))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not can_fail(node)
    ]
    assert idle == []


def can_fail(node: ast.AST) -> bool:
    """An assert, a ``pytest.raises``, or a call of a helper that is named as a check."""
    if any(isinstance(inner, ast.Assert) for inner in ast.walk(node)):
        return True
    checks = ("raises", "fail", "assert", "check", "gradcheck", "warns", "refus", "expect")
    return any(word in name.split(".")[-1].lower() for name, _ in calls(node) for word in checks)


# Where a process, a page or a server has no sign to wait for.
MAY_SLEEP = {
    "tests/waiting.py",
    "tests/chromium.py",
    "tests/judging/server.py",
    "tests/judging/test_killed.py",
    "tests/rl/test_runs.py",
    "tests/serve/test_study_page.py",
    "tests/workflows/sweep_worker.py",
}


def test_tests_wait_for_signs_and_not_for_time():
    sleeps = re.compile(r"\btime\.sleep\(|\bsleep \d")
    found = {str(path.relative_to(ROOT)) for path in TESTS if sleeps.search(path.read_text(encoding="utf-8"))}
    assert found - {"tests/architecture/test_hygiene.py"} == MAY_SLEEP


def test_git_ignores_no_file_of_the_project():
    """A rule such as ``runs/`` takes a source folder of that name too, and a fresh clone would lack it."""
    mine = [
        str(path.relative_to(ROOT)) for top in ("src", "tests", "benchmarks") for path in (ROOT / top).rglob("*.py")
    ]
    asked = subprocess.run(
        ["git", "check-ignore", "--stdin"], cwd=ROOT, input="\n".join(mine), capture_output=True, text=True
    )
    if asked.returncode == 128:
        pytest.skip("not a git checkout, so what is ignored is unknown")
    assert asked.stdout.split() == []
