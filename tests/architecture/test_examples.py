"""Every script in examples/ runs as it stands, without a network, and prints what it promises."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples"
SHARED = "testbed_files.py"
PRINTS = {
    "train_and_audit.py": r"bradley_terry +accuracy +0\.\d{3}  \(.*\n(.*\n)*odin +pearson +-?0\.\d{3}  \(",
    "audit_any_model.py": r"longer_response_baseline_accuracy +0\.\d{3}  \((.*\n)*The page: .*report\.html",
    "calibrate_scores.py": r"kappa 0\.\d\d \(.*\nnone .*\ndial +the longer twin wins 0\.[45]\d, (.*\n)*The cal",
    "own_training_loop.py": r"step  5  ranking \d\.\d{3}  accuracy 0\.\d\d(.*\n)*The model, which .*/own",
    "grpo_with_trl.py": r"step 1  mean quality reward -?\d\.\d{3}\n.*\nstep 3  mean quality reward -?\d\.\d{3}",
    "judge_and_win_rates.py": r"chosen +win score +\d+\.\d \(\d+\.\d to \d+\.\d; 50 is a tie\), \d+ words",
    "heads_on_frozen_features.py": r"bradley_terry +accuracy 0\.\d{3} .*\nodin .*\nmatched +accuracy 0\.\d{3}  pearson",
    "score_and_export.py": r"exported [+-]\d\.\d{4}  difference \d\.\de-0[6-9]",
}


def test_every_script_is_in_the_list_and_short() -> None:
    scripts = {path.name for path in FOLDER.glob("*.py")} - {SHARED}
    assert scripts == PRINTS.keys()
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert scripts == set(re.findall(r"^\| \[(\w+\.py)\]\(\1\)", page, flags=re.MULTILINE))
    long = {path.name: len(path.read_text().splitlines()) for path in FOLDER.glob("*.py")}
    assert {name: lines for name, lines in long.items() if lines > 70} == {}


@pytest.mark.parametrize("name", PRINTS)
def test_the_script_runs(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["ODIN_RM_CACHE"] = str(tmp_path / "cache")
    command = [sys.executable, str(FOLDER / name), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTS[name], done.stdout), done.stdout
    assert "Traceback" not in done.stderr


def test_the_notebook_runs_cell_by_cell_and_holds_no_output(tmp_path: Path) -> None:
    cells = json.loads((FOLDER / "first_look.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(code), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{FOLDER}", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "ODIN_RM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"bradley_terry +accuracy +0\.\d{3}  \((.*\n)*odin +pearson +-?0\.\d{3}  \(", done.stdout)
