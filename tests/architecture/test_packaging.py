"""What is shipped: one version, honest extras, files for whoever cites or builds; a wheel and an sdist that work."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import odin_rm
from odin_rm.core.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_stands_in_one_place_and_the_others_follow() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "odin_rm.__version__"}
    assert yaml.safe_load(text("CITATION.cff"))["version"] == odin_rm.__version__
    assert re.search(r"^## (\S+)", text("CHANGELOG.md"), flags=re.MULTILINE)[1] == odin_rm.__version__


def test_extras_are_named_as_they_can_be_installed_today() -> None:
    """The package is on no registry: 'odin-rm[judge]' would install nothing of ours."""
    extras = PROJECT["project"]["optional-dependencies"].keys()
    error = MissingExtraError("openai", "judge")
    assert str(error) == "this needs the package 'openai'. In the checkout: pip install '.[judge]'"
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    named = {page.name: page.read_text(encoding="utf-8") for page in pages}
    assert [name for name, page in named.items() if re.search(r"pip install '?odin[-_]rm", page)] == []
    asked = {extra for page in named.values() for extra in re.findall(r"pip install '\.\[(\w+)\]'", page)}
    assert asked <= extras
    used = {
        match
        for path in (ROOT / "src").rglob("*.py")
        for match in re.findall(r'MissingExtraError\([^)]*, "(\w+)"\)', path.read_text(encoding="utf-8"))
    }
    assert used <= extras
    assert used >= {"judge", "peft", "study"}


def test_everything_that_is_imported_is_declared() -> None:
    """What the package needs is not left to what its dependencies happen to need."""
    lines = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    names = {re.split(r"[<>=~!;\[ ]", line)[0].lower() for part in lines for line in part}
    module_of = {"scikit-learn": "sklearn", "pyyaml": "yaml"}
    known = {module_of.get(name, name.replace("-", "_")) for name in names} | set(sys.stdlib_module_names) | {"odin_rm"}
    brought = {"huggingface_hub", "markupsafe", "pydantic", "starlette", "httpx"}  # by what is declared
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).split(".")[0])
    assert found - known - brought == set()


def test_the_citation_is_whole() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "title", "message", "authors", "license"} <= citation.keys()
    assert len(citation["preferred-citation"]["authors"]) == 9
    assert citation["license"] == PROJECT["project"]["license"]


def test_the_forges_ci_runs_ours_and_its_files_are_sound() -> None:
    jobs = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]
    assert ".ci/run" in [step.get("run") for job in jobs.values() for step in job["steps"]]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= content.keys()
        assert len({item["id"] for item in content["body"]}) == len(content["body"])


INSTRUCTIONS = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}


def test_the_image_is_made_of_files_that_are_there_and_ends_with_doctor() -> None:
    """Read, not built: that needs a daemon. What it copies is there and let through, and the examination comes last."""
    lines = re.sub(r"\\\n", " ", text("Dockerfile")).splitlines()
    steps = [line.split(None, 1) for line in lines if line.strip() and not line.startswith("#")]
    assert {name for name, _ in steps} <= INSTRUCTIONS
    assert steps[0][0] == "FROM"
    copied = [place for name, rest in steps if name == "COPY" for place in rest.split()[:-1]]
    assert [place for place in copied if not (ROOT / place).exists()] == []
    let_through = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    assert set(copied) == let_through
    assert ["RUN", "odin-rm doctor"] in steps
    assert ["ENTRYPOINT", '["odin-rm"]'] in steps
    assert steps.index(["RUN", "odin-rm doctor"]) > steps.index(["USER", "user"])


def shell(*words: object, **options: object) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.mark.slow
def test_wheel_and_sdist_work_in_a_clean_environment(tmp_path: Path) -> None:
    """Both are built, hold the files that are no code, and are installed where nothing else of ours is."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("pip is not installed beside this Python")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    source = tmp_path / "source"
    listed = shell("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = "from setuptools import build_meta; print(build_meta.build_sdist({!r}))"
    environment = tmp_path / "environment"
    shell(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    shell(python, "-m", "pip", "-q", "install", "setuptools>=77", "wheel", env=clean)
    shell(python, "-c", build.format(str(tmp_path)), cwd=source, env=clean)
    (sdist,) = tmp_path.glob("odin_rm-*.tar.gz")
    shell(*pip, "wheel", "--no-deps", "-w", tmp_path, sdist, env=clean)
    (wheel,) = tmp_path.glob("odin_rm-*.whl")
    assert odin_rm.__version__ in wheel.name
    shipped = set(zipfile.ZipFile(wheel).namelist())
    data = {name.removeprefix("src/") for name in listed if name.startswith("src/") and not name.endswith(".py")}
    assert data
    assert data <= shipped
    assert {name for name in shipped if name.startswith(("tests/", "benchmarks/", "examples/"))} == set()
    shell(python, "-m", "pip", "-q", "install", "-c", ROOT / "constraints.txt", wheel, env=clean)
    home = {**clean, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = environment / "bin" / "odin-rm"
    assert shell(command, "--version", env=home, cwd=tmp_path) == f"odin-rm {odin_rm.__version__}\n"
    assert "All is well" in shell(command, "doctor", env=home, cwd=tmp_path)
    small = ("--pairs", 100, "--held_out_pairs", 50, "--epochs", 1, "--bootstrap_samples", 10, "--hidden", 16)
    shell(command, "quickstart", "--output", "quick", *small, env=home, cwd=tmp_path)
    assert (tmp_path / "quick" / "report.html").is_file()
