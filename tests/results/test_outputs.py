"""Model outputs: reading AlpacaEval's format, bringing two files together, and what is refused."""

from __future__ import annotations

import json

import pytest

from odin_rm.core.errors import DataError
from odin_rm.results.outputs import OutputPair, pair_outputs, read_outputs


def row(k: int, **fields):
    return {"instruction": f"q{k}", "output": f"a{k}", "generator": "m", **fields}


def save(path, rows):
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(one) + "\n" for one in rows)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_pairs_follow_the_candidates_order(tmp_path, name):
    candidate = read_outputs(save(tmp_path / name, [row(1, dataset="d"), row(0)]))
    baseline = read_outputs(save(tmp_path / f"b{name}", [row(0, output="b0"), row(1, output="b1")]))
    assert pair_outputs(candidate, baseline) == [OutputPair("q1", "b1", "a1", "d"), OutputPair("q0", "b0", "a0")]
    assert candidate.generator == "m"


def test_a_file_without_generator_is_called_by_its_name(tmp_path):
    rows = [{"instruction": "q", "output": "a"}]
    assert read_outputs(save(tmp_path / "my-model.v2.json", rows)).generator == "my-model"


def test_the_digest_is_of_the_content(tmp_path):
    digests = [
        read_outputs(save(tmp_path / f"{k}.json", rows)).digest()
        for k, rows in enumerate([[row(0), row(1)], [row(1), row(0)], [row(0), row(1, output="other")]])
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(0), row(1), row(0)], "row 3: the instruction is that of row 1 again. Keep one answer"),
        ([row(0), row(1, output=" \n")], "row 2: 'output' is empty. Fill it in"),
        ([row(0, instruction="")], "row 1: 'instruction' is empty"),
        ([row(0, output=None)], "row 1: 'output' is null, not text"),
        ([{"instruction": "q"}], "row 1: field 'output' is missing. Write rows of instruction, output and generator"),
        ([row(0), row(1, generator="n")], "row 2: the generator is 'n', but 'm'"),
    ],
)
def test_unusable_rows(tmp_path, rows, said):
    with pytest.raises(DataError) as error:
        read_outputs(save(tmp_path / "a.json", rows))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("candidate", "baseline", "said"),
    [
        ([7, 8], [0, 1], "a.json: no instruction is also in"),
        ([0, 1, 2], [0, 1], "a.json, row 3: the instruction has no answer in"),
        ([0, 1], [5, 0, 1, 2], "b.json, row 1: the instruction has no answer in"),
    ],
)
def test_outputs_of_different_prompts(tmp_path, candidate, baseline, said):
    sides = [
        read_outputs(save(tmp_path / name, [row(k) for k in ks]))
        for name, ks in (("a.json", candidate), ("b.json", baseline))
    ]
    with pytest.raises(DataError) as error:
        pair_outputs(*sides)
    assert said in str(error.value)
