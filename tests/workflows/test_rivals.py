"""``odin-rm rivals`` from end to end: its figures by value, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from odin_rm.cli.main import main
from odin_rm.core.errors import ConfigError, DataError, OutputError
from odin_rm.data.attributes import MEASURED, find_attribute
from odin_rm.data.load import load_preferences
from odin_rm.evaluation.information import fit_pair_logistic
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.head_training import train_heads
from odin_rm.testbed.annotator import Annotator, make_preferences
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World, WorldSettings
from odin_rm.workflows.rivals.arms import read_arms
from odin_rm.workflows.rivals.bag import bag_of, fit_bag
from odin_rm.workflows.rivals.cells import Cells
from odin_rm.workflows.rivals.config import RivalsConfig
from odin_rm.workflows.rivals.features import Backbone, Compared, named_sources, read_compared
from odin_rm.workflows.rivals.run import run_rivals
from tests.families import save_base
from tests.model.words import build_tokenizer

ARMS = ["bradley_terry", "small=bsr penalty_weight=0.5 epochs=3", "bag_of_words"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rivals")
    testbed = World(WorldSettings())
    save_tiny_model(folder / "model", 0, hidden=32, layers=1, heads=2)
    rows = make_preferences(testbed, Annotator(testbed), 80, 0, split="train")
    for k, row in enumerate(rows):
        row.update(chosen_score=1.0 + k, rejected_score=0.0)
    twins = [{"prompt": r["prompt"], "shorter": r["rejected"], "longer": r["chosen"]} for r in rows[:12]]
    for name, found in (("train", rows), ("twins", twins)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return folder


def config(world: Path, output: Path, **fields: Any) -> RivalsConfig:
    return RivalsConfig(
        **{
            "model": str(world / "model"),
            "datasets": [f"bed={world / 'train.jsonl'}"],
            "output": str(output),
            "arms": ARMS,
            "folds": 2,
            "epochs": 2,
            "batch_pairs": 16,
            "max_length": 64,
            "pairs": str(world / "twins.jsonl"),
            "edits": ["add_filler", "make_list"],
            "responses": 12,
            "gold": "score",
            "n": 2,
            "bootstrap_samples": 30,
            "cache_dir": str(world / "cache"),
            "device": "cpu",
            **fields,
        }
    )


@pytest.fixture(scope="module")
def ran(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("ran") / "out"
    return output, run_rivals(config(world, output))


def test_figures_are_those_of_heads_trained_without_the_prompt(world: Path, ran: tuple[Path, dict[str, Any]]) -> None:
    given = config(world, Path("unused"))
    backbone = Backbone(given)
    data = load_preferences(str(world / "train.jsonl"), backbone.tokenizer, backbone.settings, extra_columns=["score"])
    table = np.array(backbone.features(data, "train"))
    fold_P = np.random.default_rng(0).permutation(data.num_prompts) % 2
    fold_B = fold_P[data.response_prompt[data.pair_chosen]]
    right = np.zeros(data.num_pairs)
    for fold in (0, 1):
        trained = train_heads(
            table, data, "bsr", settings=OBJECTIVES["bsr"].settings(penalty_weight=0.5), schedule="cosine",
            pairs=np.flatnonzero(fold_B != fold), batch_pairs=16, epochs=3, learning_rate=0.01, weight_decay=0.01,
        )  # fmt: skip
        quality = trained.scores(table).quality.numpy()
        held = fold_B == fold
        right[held] = (quality[data.pair_chosen] > quality[data.pair_rejected])[held]
    found = ran[1]["datasets"]["bed"]["figures"]["small"]
    assert found["accuracy"]["value"] == pytest.approx(right.mean(), abs=1e-12)


def test_every_arm_has_every_figure_and_the_files_say_the_same(ran: tuple[Path, dict[str, Any]]) -> None:
    output, content = ran
    assert json.loads((output / "rivals.json").read_text(encoding="utf-8")) == json.loads(json.dumps(content))
    one = content["datasets"]["bed"]
    names = {"accuracy", "pearson", "best_of_n_gold", "price.add_filler", "won.make_list", "pairs.twins"}
    assert list(one["figures"]) == ["bradley_terry", "small", "bag_of_words"]
    for arm, own in one["figures"].items():
        assert names <= set(own)
        assert own["accuracy"]["low"] <= own["accuracy"]["value"] <= own["accuracy"]["high"]
        if arm == "bradley_terry":
            assert one["differences"][arm] == {}
            continue
        for name in names:
            base = one["figures"]["bradley_terry"][name]["value"]
            assert one["differences"][arm][name]["value"] == pytest.approx(own[name]["value"] - base, abs=1e-12)
    assert one["pair_rows"] == {"twins": 12}
    assert {"cells", "report.html", "rivals.tex", "rivals_bed_content_price.svg"} <= {p.name for p in output.iterdir()}
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Content against price: bed" in page
    assert "penalty_weight 0.5, epochs 3" in page
    assert content["arms"]["small"] == {
        "objective": "bsr", "options": {"penalty_weight": 0.5}, "training": {"epochs": 3}
    }  # fmt: skip


def test_what_is_trained_stays_and_only_a_changed_arm_is_trained_anew(
    world: Path, ran: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "again"
    shutil.copytree(ran[0], output)
    before = {path.name: path.stat().st_mtime_ns for path in (output / "cells").iterdir()}
    assert len(before) == 6
    again = run_rivals(config(world, output))
    assert again["datasets"]["bed"] == ran[1]["datasets"]["bed"]
    broken = output / "cells" / sorted(before)[0]
    broken.write_bytes(broken.read_bytes()[:40])  # a file that a kill has cut off
    changed = [*ARMS[:1], "small=bsr penalty_weight=0.6 epochs=3", *ARMS[2:]]
    run_rivals(config(world, output, arms=changed))
    after = {path.name: path.stat().st_mtime_ns for path in (output / "cells").iterdir()}
    assert len(after) == 8
    assert {name for name in before if after[name] != before[name]} <= {broken.name}


def test_all_objectives_run_and_two_seeds_are_a_mean(world: Path, tmp_path: Path) -> None:
    given = {"pairs": None, "edits": ["none"], "gold": None, "epochs": 1}
    content = run_rivals(config(world, tmp_path / "all", arms=[], **given))
    assert set(content["datasets"]["bed"]["figures"]) == {*OBJECTIVES, "bag_of_words"}
    assert content["reference"] == "bradley_terry"
    one = [
        run_rivals(config(world, tmp_path / f"s{seeds}", arms=["poe"], seeds=seeds, **given))["datasets"]["bed"]
        for seeds in ([0], [1], [0, 1])
    ]
    first, second, both = (found["figures"]["poe"]["pearson"]["value"] for found in one)
    assert first != second
    assert both == pytest.approx((first + second) / 2, abs=1e-12)


def test_the_length_head_goes_off_after_training(world: Path, tmp_path: Path) -> None:
    arms = ["odin", "less=odin after=length_head", "loess=odin after=loess", "null=odin after=nulling"]
    arms += ["warm=odin average=2", "held=odin length_tolerance=0.01"]
    content = run_rivals(config(world, tmp_path / "armo", arms=arms, pairs=None, edits=["none"], gold=None))
    figures = content["datasets"]["bed"]["figures"]
    found = [figures[name.partition("=")[0]]["pearson"]["value"] for name in arms]
    assert len(set(found)) == len(arms)


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (["nothing"], "no objective 'nothing'"),
        (["x=nothing"], "no objective 'nothing'"),
        (["bsr weight=1"], "no option of bsr"),
        (["bsr penalty_weight=much"], "is no number"),
        (["bsr epochs=1.5"], "is no whole number"),
        (["bsr normalise_heads=yes"], "neither true nor false"),
        (["bsr penalty_weight=-1"], "--arms 'bsr penalty_weight=-1': penalty_weight: must be at least 0"),
        (["bsr penalty_weight=1 penalty_weight=2"], "has penalty_weight twice"),
        (["=odin"], "has no name"),
        (["bsr epochs=0"], "epochs must be at least 1"),
        (["bsr batch_pairs=0"], "batch_pairs must be at least 1"),
        (["bsr learning_rate=nan"], "learning_rate must be positive"),
        (["bsr weight_decay=-1"], "weight_decay must be at least 0"),
        (["odin head_scale=0"], "head_scale must be positive"),
        (["bag_of_words ridge=0"], "ridge must be positive"),
        (["matched edits=add_bold"], "makes no edited copies"),
        (["matched match_attributes=nothing"], "match_attributes: there is no attribute 'nothing' of the text"),
        (["bradley_terry length_measure=squared"], "length_measure: has no effect with length_weight 0"),
        (["dir"], "no gradient in heads on frozen features"),
        (["bsr after=length_head"], "cannot have after"),
        (["bsr after=nothing"], "Use one of length_head, loess, nulling"),
        (["bsr average=0"], "average must be at least 1"),
        (["odin length_tolerance=much"], "is no number"),
        (["bsr head_scale=2"], "normalised heads only"),
        (["bag_of_words epochs=2"], "no option of bag_of_words"),
        (["bsr", "bsr"], "two arms are called 'bsr'"),
    ],
)
def test_arms_that_cannot_be(arms: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        read_arms(arms)
    assert caught.value.where.startswith("--arms")


def test_an_arm_that_cannot_learn_is_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"arm 'near', match_tau: leaves the weight of 0 of \d+ pairs"):
        run_rivals(config(world, tmp_path / "a", arms=["near=matched match_tau=1e-9 match_attributes=characters"]))


def test_a_call_that_fails_leaves_no_page_of_other_settings(
    world: Path, ran: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ran[0], tmp_path / "again")

    def fail(*_: Any) -> None:
        raise DataError("the disk is gone")

    monkeypatch.setattr("odin_rm.workflows.rivals.run.read_compared", fail)
    with pytest.raises(DataError, match="the disk is gone"):
        run_rivals(config(world, tmp_path / "again", epochs=3))
    there = {path.name for path in (tmp_path / "again").iterdir()}
    assert not there & {"rivals.json", "rivals.md", "rivals.tex", "report.html"}
    assert "cells" in there


def test_fields_of_other_names_are_named(world: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (world / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    theirs = [{"question": r["prompt"], "good": r["chosen"], "bad": r["rejected"]} for r in rows]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in theirs), encoding="utf-8")
    given = {"arms": ["bradley_terry"], "gold": None}
    names = ["prompt=question", "chosen=good", "rejected=bad"]
    ours = run_rivals(config(world, tmp_path / "a", **given))
    found = run_rivals(
        config(world, tmp_path / "b", **given, datasets=[f"bed={tmp_path / 'theirs.jsonl'}"], columns=names)
    )
    assert found["datasets"]["bed"]["figures"] == ours["datasets"]["bed"]["figures"]


def test_normalised_heads_have_the_scale_of_the_data_or_their_own(world: Path, tmp_path: Path) -> None:
    given = config(world, tmp_path / "a", pairs=None, edits=["none"], gold=None)
    backbone = Backbone(given)
    one = read_compared(given, backbone, "bed", str(world / "train.jsonl"), [])
    assert one.head_scale == 1.0  # a decoder
    scaled = dataclasses.replace(one, head_scale=3.0)
    arms = {arm.name: arm for arm in read_arms(["odin", "own=odin head_scale=2"])}
    names = ("batch_pairs", "epochs", "learning_rate", "weight_decay")
    kwargs: dict[str, Any] = {name: getattr(given, name) for name in names}
    for arm, scale in (("odin", 3.0), ("own", 2.0)):
        pairs, there = np.flatnonzero(one.fold_B != 0), one.fold_R == 0
        trained = train_heads(one.feature_RD, one.data, "odin", pairs=pairs, head_scale=scale, **kwargs)
        held = Cells(given, scaled, tmp_path / arm).get(arms[arm], 0, 0)[0].held
        weight_D = trained.heads.effective("quality").detach().double().numpy()
        assert np.allclose(held, (one.feature_RD.astype(np.float64) @ weight_D)[there], atol=1e-6)
    # On an encoder it is half over the deviation of its features.
    save_base("bert", tmp_path / "bert")
    build_tokenizer("bert").save_pretrained(tmp_path / "bert")
    encoder = Backbone(dataclasses.replace(given, model=str(tmp_path / "bert")))
    assert encoder.head_scale(np.array([[0.2, 0.0], [-0.2, 0.0]])) == pytest.approx(3.5)  # 0.5 / (0.2 / sqrt(2))


def test_a_cell_is_of_the_lengths_and_the_attributes_that_it_was_trained_with(world: Path, tmp_path: Path) -> None:
    given = config(world, tmp_path / "a", pairs=None, edits=["none"], gold=None)
    arm = read_arms(["matched match_attributes=response_tokens,words"])[0]
    one = read_compared(given, Backbone(given), "bed", str(world / "train.jsonl"), [find_attribute("words")])

    def digest(compared: Compared) -> str:
        return Cells(given, compared, tmp_path)._digest(arm, 0, 0)

    longer = dataclasses.replace(one.data, response_tokens=np.asarray(one.data.response_tokens) + 1)
    others = {**one.data.extra, f"{MEASURED}words": np.asarray(one.data.attributes["words"]) + 1}
    wordy = dataclasses.replace(one.data, extra=others)
    assert len({digest(one), *(digest(dataclasses.replace(one, data=data)) for data in (longer, wordy))}) == 3
    assert digest(dataclasses.replace(one)) == digest(one)


def test_arms_are_read() -> None:
    names = read_arms(["two words=odin head_scale=2", "bsr penalty_weight=2", "odin"])
    assert [(arm.name, arm.objective) for arm in names] == [
        ("two words", "odin"), ("bsr penalty_weight=2", "bsr"), ("odin", "odin")
    ]  # fmt: skip
    arm = read_arms(["x=dir information_of=reward penalty_weight=1e-2 learning_rate=3e-3 batch_pairs=7"])[0]
    assert (arm.name, arm.settings.penalty_weight, arm.settings.information_of) == ("x", 0.01, "reward")
    assert arm.training == {"learning_rate": 0.003, "batch_pairs": 7}
    assert named_sources(["a=x.jsonl", "b/y.jsonl.gz"]) == {"a": "x.jsonl", "y": "b/y.jsonl.gz"}
    with pytest.raises(ConfigError, match="two data sets"):
        named_sources(["a/y.jsonl", "b/y.jsonl"])


def test_what_cannot_be_compared_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no edit 'x'"):
        run_rivals(config(world, tmp_path / "a", edits=["x"]))
    with pytest.raises(DataError, match="prompts for 60 folds"):
        run_rivals(config(world, tmp_path / "b", folds=60))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="another folder"):
        run_rivals(config(world, tmp_path / "c"))
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["mine.txt"]


def test_a_bag_of_words_by_hand_and_its_fit_by_newton() -> None:
    bag = bag_of([np.array([3, 3, 4]), np.array([4])])
    assert bag.shape == (2, 2**14)
    assert sorted(bag[0].data) == pytest.approx(
        sorted(np.log([3, 2, 2, 2]) / np.linalg.norm(np.log([3, 2, 2, 2]))), abs=1e-12
    )  # 3 twice, 4, and the pairs (3, 3) and (3, 4)
    assert bag[1].data.tolist() == [1.0]
    assert set(bag[1].indices) < set(bag[0].indices)
    rng = np.random.default_rng(0)
    difference = rng.normal(size=(60, 4)) + 0.3
    expected = fit_pair_logistic(difference, ridge=0.02 * 60)
    np.testing.assert_allclose(fit_bag(sparse.csr_matrix(difference), 0.02), expected, atol=1e-4)


def test_the_example_config_runs_small(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "rivals.yaml"
    monkeypatch.chdir(tmp_path)
    flags = ["--model", str(world / "model"), "--datasets", str(world / "train.jsonl"), "--folds", "2", "--epochs", "1"]
    flags += ["--pairs", str(world / "twins.jsonl"), "--responses", "8", "--bootstrap_samples", "20", "--n", "2"]
    flags += ["--cache_dir", str(world / "cache"), "--max_length", "64", "--seeds", "0"]
    assert main(["rivals", "--config", str(example), *flags, "--output", "out"]) == 0
    said = capsys.readouterr().out
    assert "what each arm has on held-out prompts" in said
    content = json.loads((tmp_path / "out" / "rivals.json").read_text(encoding="utf-8"))
    assert len(content["arms"]) > 10
