"""Rotary positions in the words of transformers 4: fields and frequencies by hand, and differences where they are."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import transformers as tf

from odin_rm.model.rotary import NotInFourError, frequencies_in_four, rotary_difference
from odin_rm.model.stock_config import add_rotary_fields
from tests.families import DECODER, SPECIAL, VOCABULARY

SHARED = {"vocab_size": VOCABULARY, **SPECIAL, **DECODER}
SMALL = {"model_type": "llama", "head_dim": 4, "hidden_size": 8, "num_attention_heads": 2}


def fields(parameters: dict, **config) -> dict:
    before = {"rope_parameters": parameters, **config}
    after = json.loads(json.dumps(before))
    add_rotary_fields(after)
    return {name: value for name, value in after.items() if name not in before}


def test_plain_positions_are_a_base_and_nothing_else():
    assert fields({"rope_type": "default", "rope_theta": 5e5}) == {"rope_theta": 5e5}
    assert fields({"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}) == {
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
    }


def test_scaled_positions_keep_their_dictionary_without_the_base():
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    assert fields(scaled) == {"rope_theta": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}


def test_longrope_says_its_window_and_its_factor_on_cosine_and_sine():
    parameters = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0, 2.0],
        "long_factor": [3.0, 4.0],
    }
    found = fields(parameters, max_position_embeddings=1024)
    assert found["original_max_position_embeddings"] == 64
    assert found["rope_scaling"]["attention_factor"] == pytest.approx(math.sqrt(1 + math.log(4) / math.log(64)))
    assert fields(parameters, model_type="phi3")["rope_scaling"] == {
        "type": "longrope",
        "short_factor": [1.0, 2.0],
        "long_factor": [3.0, 4.0],
    }


@pytest.mark.parametrize(
    "kind, expected",
    [
        (
            "gemma3_text",
            {
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        ),
        ("modernbert", {"global_rope_theta": 1e6, "local_rope_theta": 1e4}),
    ],
)
def test_positions_by_kind_of_layer_have_their_own_names(kind, expected):
    whole = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    nested = {"full_attention": whole, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    assert fields(nested, model_type=kind) == expected


def test_gpt_neox_and_configs_within_a_config():
    parameters = {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.25}
    found = fields(parameters, model_type="gpt_neox")
    assert (found["rotary_emb_base"], found["rotary_pct"]) == (2e4, 0.25)
    outer = {"model_type": "seeing", "text_config": {"model_type": "llama", "rope_parameters": {"rope_theta": 7.0}}}
    add_rotary_fields(outer)
    assert outer["text_config"]["rope_theta"] == 7.0


def test_frequencies_by_hand():
    plain, factor = frequencies_in_four({**SMALL, "rope_theta": 100.0})
    np.testing.assert_allclose(plain, [1.0, 0.1])  # 100 ** (-0 / 4), 100 ** (-2 / 4)
    assert factor == 1.0
    scaling = {"rope_type": "linear", "factor": 4.0}
    np.testing.assert_allclose(
        frequencies_in_four({**SMALL, "rope_theta": 100.0, "rope_scaling": scaling})[0], [0.25, 0.025]
    )
    # 40 tokens hold 40 / 2 pi = 6.37 turns of the first wave (over 4: kept), 0.637 of the second (a quarter).
    scaling = {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 40,
    }
    np.testing.assert_allclose(
        frequencies_in_four({**SMALL, "rope_theta": 100.0, "rope_scaling": scaling})[0], [1.0, 0.025]
    )
    half = frequencies_in_four({**SMALL, "rope_theta": 100.0, "partial_rotary_factor": 0.5})[0]
    np.testing.assert_allclose(half, [1.0])
    assert frequencies_in_four(SMALL)[0].tolist() == pytest.approx([1.0, 0.01])  # a base that is not said is 10000
    long = {"rope_type": "longrope", "short_factor": [2.0, 5.0], "long_factor": [1.0, 1.0], "attention_factor": 1.5}
    found, factor = frequencies_in_four({**SMALL, "rope_theta": 100.0, "rope_scaling": long})
    np.testing.assert_allclose(found, [0.5, 0.02])
    assert factor == 1.5
    with pytest.raises(NotInFourError, match="unknown"):
        frequencies_in_four({**SMALL, "rope_scaling": {"rope_type": "proportional"}})


def scaled(kind: str) -> dict:
    windows = {"original_max_position_embeddings": 32}
    more = {
        "default": {},
        "linear": {"factor": 4.0},
        "dynamic": {"factor": 4.0},
        "yarn": {"factor": 4.0, **windows},
        "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **windows},
        "longrope": {"factor": 2.0, "short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [4.0] * 4, **windows},
    }[kind]
    return {"rope_type": kind, "rope_theta": 3e4, **more}


def model_and_content(config):
    model = tf.AutoModelForSequenceClassification.from_config(config)
    content = json.loads(config.to_json_string(use_diff=False))
    add_rotary_fields(content)
    return model, content


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "yarn", "llama3", "longrope"])
def test_the_written_fields_give_the_models_own_frequencies(kind):
    config = tf.LlamaConfig(**SHARED, max_position_embeddings=128, rope_parameters=scaled(kind), num_labels=1)
    model, content = model_and_content(config)
    assert rotary_difference(model, content) < 1e-6
    # Each field counts: a base or a factor that is wrong shows.
    assert rotary_difference(model, content | {"rope_theta": 1e4}) > 0.05
    if kind in ("linear", "yarn", "llama3"):
        other = content | {"rope_scaling": content["rope_scaling"] | {"factor": 3.0}}
        assert rotary_difference(model, other) > 0.05
    if kind != "default" and kind != "dynamic":
        assert rotary_difference(model, {k: v for k, v in content.items() if k != "rope_scaling"}) > 0.05


def layered(whole: dict, local: dict) -> dict:
    return {"full_attention": whole, "sliding_attention": local}


@pytest.mark.parametrize("family", ["gemma3", "modernbert"])
def test_both_kinds_of_layers_are_compared(family):
    plain = {"rope_type": "default"}
    parameters = layered({**plain, "rope_theta": 5e5}, {**plain, "rope_theta": 2e4})
    kinds = ["sliding_attention", "full_attention"]
    if family == "gemma3":
        config = tf.Gemma3TextConfig(**SHARED, layer_types=kinds, rope_parameters=parameters, num_labels=1)
        names = "rope_theta", "rope_local_base_freq"
    else:
        config = tf.ModernBertConfig(**SHARED, layer_types=kinds, rope_parameters=parameters, num_labels=1)
        names = "global_rope_theta", "local_rope_theta"
    model, content = model_and_content(config)
    assert rotary_difference(model, content) < 1e-6
    for name in names:
        assert rotary_difference(model, content | {name: 7e4}) > 0.05


def test_what_transformers_4_has_no_words_for():
    plain, linear = (
        {"rope_type": "default", "rope_theta": 1e4},
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    )
    for kind, parameters, message in (
        ("gemma3_text", layered(plain, linear), "cannot be scaled"),
        ("modernbert", layered(linear, plain), "cannot be scaled"),
        ("olmo3", layered(plain, plain | {"rope_theta": 2e4}), "one base"),
        ("modernbert-decoder", layered(plain, plain | {"rope_theta": 2e4}), "one base"),
        ("other", {"main": plain, "compress": plain}, "no words"),
    ):
        with pytest.raises(NotInFourError, match=message):
            rotary_difference(torch.nn.Linear(1, 1), {"model_type": kind, "rope_parameters": parameters})
    with pytest.raises(NotInFourError, match="not compared"):
        rotary_difference(torch.nn.Linear(1, 1), {"model_type": "llama", "rope_parameters": plain})
    assert rotary_difference(torch.nn.Linear(1, 1), {"model_type": "gpt2"}) is None
