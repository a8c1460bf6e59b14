"""``odin-rm pareto`` from the command line: what it prints, and bad input in one line with code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from odin_rm.cli.main import main
from tests.evaluation.runs_kit import judge_folder, write_csv

HEADER = "arm,mean_tokens,score,kl_coef"


def test_prints_the_tables_and_what_could_not_be_computed(room: Path, capfd) -> None:
    write_csv(room / "runs.csv", HEADER, "odin,20,70,0.1", "odin,30,80,0.2", "vanilla,25,60,0.1")
    assert main(["pareto", "--runs", "runs.csv", "--output", "out", "--bootstrap_samples", "50"]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert "3 runs, win score; intervals resample runs" in shown.out
    assert "First minus second" in shown.out
    assert "no interval: a bootstrap over runs needs two of them: vanilla" in shown.out
    assert "Written to out" in shown.out


def rows(*lines: str, header: str = HEADER) -> list[str]:
    return [header, *lines]


@pytest.mark.parametrize(
    ("table", "flags", "said"),
    [
        (rows("a,1,2,3"), ["--arm", "beta"], "has no 'beta'. Known there: arm, kl_coef, name."),
        (rows("a,,,0.1"), [], "row 1: has neither a mean length nor a score"),
        (rows("a,1,,0.1"), [], "row 1: the run has no win_score"),
        (rows("a,1,2,0.1"), ["--x", "characters"], "no mean length in characters (it has tokens)"),
        (rows("a,1,2,0.1", "a,2,3,0.1"), ["--recipe", "kl"], "all runs have kl_coef 0.1"),
        (rows("a,1,2", "b,1,2", header="arm,tokens,score"), ["--recipe", "kl"], "no run has the setting 'kl_coef'"),
        (rows("a,1,2,x", "b,1,2,y", header="arm,tokens,score,baseline"), [], "the baseline is 'y', but 'x'"),
        (rows("a,1,2,x", "b,1,2,y", header="arm,tokens,score,judge"), [], "the judge is 'y', but 'x'"),
        (rows(), [], "the file holds no rows"),
        (rows("a,1,2,3"), ["--y", "true_score"], "--y: invalid choice: 'true_score'"),
    ],
)
def test_a_bad_table(table, flags, said, room: Path, refuse) -> None:
    write_csv(room / "runs.csv", *table)
    refuse(["pareto", "--runs", "runs.csv", "--output", "out", *flags], said)


def test_judgements_that_must_not_be_mixed(room: Path, refuse) -> None:
    judge_folder(room / "a", "a", judge={"name": "gpt", "template": "scores"})
    judge_folder(room / "b", "b", judge={"name": "gpt", "template": "pairwise"})
    judge_folder(room / "c", "c", n=20)
    judge_folder(room / "d", "d", generator_1="other")
    words = ["pareto", "--output", "out", "--runs"]
    refuse([*words, "a", "b"], "annotations.json: the judge has another template")
    refuse([*words, "a", "c"], "judged on other prompts", "--prompts shared")
    refuse([*words, "a", "d"], "the baseline is 'other', but 'sft'")
    refuse([*words, "none/*"], "none/*: the pattern matches nothing")
    refuse([*words, "a", "a"], "is given twice")
