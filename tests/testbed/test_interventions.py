"""The testbed's interventions change what they say and nothing in the truth."""

from __future__ import annotations

import numpy as np
import pytest

from odin_rm.testbed.interventions import (
    EDITS,
    PURE,
    add_filler,
    make_interventions,
    sentences_of,
    toggle_list,
    toggle_opener,
)
from odin_rm.testbed.world import World, WorldSettings, count_tokens, is_flattering, is_list


def test_by_hand():
    rng = np.random.default_rng(0)
    plain = "Measure every piece twice. Sand rough edges until smooth."
    listed = toggle_list(plain, rng)
    assert listed == "- Measure every piece twice.\n- Sand rough edges until smooth."
    assert toggle_list(listed, rng) == plain
    flattering = toggle_opener(plain, rng)
    assert is_flattering(flattering)
    assert flattering.endswith(plain)
    assert toggle_opener(flattering, rng) == plain
    longer = add_filler(listed, rng)
    assert is_list(longer)
    assert len(sentences_of(longer)) == 3


@pytest.fixture(scope="module")
def responses() -> tuple[World, list[tuple[str, str]]]:
    world = World(WorldSettings(list_rate=0.3, flattery_rate=0.3))
    rng = np.random.default_rng(1)
    prompts = [world.draw_prompt(rng) for _ in range(200)]
    return world, [(prompt, world.write_response(prompt, rng)) for prompt in prompts]


@pytest.mark.parametrize("name", [*EDITS, *PURE])
def test_no_edit_changes_the_true_quality(responses, name):
    world, texts = responses
    edit = PURE[name] if name in PURE else EDITS[name][0]
    rng = np.random.default_rng(2)
    changed = 0
    for prompt, response in texts:
        edited = edit(response, rng)
        if edited is None:
            continue
        changed += edited != response
        assert world.true_quality(prompt, edited) == world.true_quality(prompt, response)
        if name in PURE:
            assert (count_tokens(edited), is_list(edited), is_flattering(edited)) == (
                count_tokens(response), is_list(response), is_flattering(response))  # fmt: skip
        else:
            assert {
                "filler": count_tokens(edited) > count_tokens(response),
                "list": is_list(edited) != is_list(response),
                "opener": is_flattering(edited) != is_flattering(response),
            }[name]
    assert changed > 150


def test_rows_for_probe_are_a_function_of_the_seed():
    world = World()
    rows = make_interventions(world, 20, 5)
    assert rows == make_interventions(world, 20, 5)
    assert rows != make_interventions(world, 20, 6)
    assert {row["edit"] for row in rows} == set(EDITS)
    assert {row["attribute"] for row in rows} == {attribute for _, attribute in EDITS.values()}
