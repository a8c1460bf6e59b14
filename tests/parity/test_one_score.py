"""One text, one score: layouts, the export in stock transformers and the last attended token, whatever the pad token.

The whole matrix (all families) is ``make bench-one-score``; here are its corners.
"""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from benchmarks.one_score import PADS, by_layout, by_stock, reward_model, texts
from benchmarks.shared.foreign_readings import foreign

from odin_rm.data.tokenise import encode_responses
from odin_rm.model.export import export_quality_head
from odin_rm.model.scoring import load_scorer

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize(
    ("name", "pad", "chat"),
    [*(("llama", pad, False) for pad in PADS), ("llama", "missing", True), ("gpt2", "missing", False)],
)
def test_every_way_of_reading_gives_one_score(name, pad, chat, tmp_path):
    model, tokenizer, path = reward_model(name, pad, tmp_path, chat=chat)
    encoded = encode_responses(
        tokenizer, *map(list, zip(*texts(False), strict=True)), settings := load_scorer(path).settings
    )
    export_quality_head(model, tmp_path / "export", sequences=[e.input_ids for e in encoded], tokenizer=tokenizer)
    assert settings.read_at == "end_of_turn"
    for long in (False, True):
        found, ids = by_layout(path, texts(long))
        assert max(map(len, ids)) > (256 if long else 20)
        assert set(found) == {"tree", "packed", "padded", "single"}
        single = found.pop("single")
        assert single.std() > 0.1  # one token off would change it by as much
        for way, scores in (found | by_stock(tmp_path / "export", texts(long), causal=True)).items():
            np.testing.assert_allclose(scores, single, rtol=0, atol=TOLERANCE, err_msg=way)


@pytest.mark.parametrize("name", ["llama dynamic", "llama longrope", "nystromformer", "xlnet", "bart"])
def test_somebodys_classifier_scores_as_stock_does_one_by_one_in_any_company(name):
    rows = foreign([name])
    assert rows
    for row in rows:
        assert row["deviation"] > 1e-3
        assert max(row["differences"].values()) <= TOLERANCE, row
