"""Micro-batches by bin packing: what a row costs, what stays together, what the ranks share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.core.errors import ConfigError
from odin_rm.data.planning import BatchPlan, Cost, plan_batch, row_inputs, to_device
from odin_rm.data.trees import MIN_SHARED, tree_tokens


def group(start: int, prompt: int, answers: list[int]) -> list[np.ndarray]:
    """Responses of these many tokens to one prompt of ``prompt`` tokens; no other group has its ids."""
    first = np.arange(start, start + prompt)
    return [
        np.concatenate([first, np.full(n, 10_000 + 100 * start + k)]).astype(np.int32) for k, n in enumerate(answers)
    ]


def rows_of(plan: BatchPlan) -> list[np.ndarray]:
    return [row for rank in plan.ranks for row in rank if len(row)]


def shuffled(sequences: list[np.ndarray], seed: int = 0) -> tuple[list[np.ndarray], list[int]]:
    order = np.random.default_rng(seed).permutation(len(sequences)).tolist()
    return [sequences[i] for i in order], order


def test_a_group_costs_its_prompt_once_by_hand():
    sequences = group(0, 20, [5, 7]) + group(100, 30, [4])
    plan = plan_batch(sequences, 66, layout="tree")
    assert plan.tokens == [[66]]  # 20 + 5 + 7 and 30 + 4
    assert sorted(plan.ranks[0][0].tolist()) == [0, 1, 2]
    assert plan_batch(sequences, 65, layout="tree").tokens == [[34, 32]]
    assert plan_batch(sequences, 86, layout="packed").tokens == [[86]]
    assert plan_batch(sequences, 102, layout="padded").tokens == [[102]]
    assert [p.real_tokens for p in (plan, plan_batch(sequences, 102, layout="padded"))] == [66, 86]


def test_groups_stay_together_and_large_ones_repeat_their_prompt():
    sequences, order = shuffled(group(0, 20, [10] * 4) + group(100, 20, [10] * 4) + group(200, 20, [10] * 12))
    prompts = np.array([0] * 4 + [1] * 4 + [2] * 12)[order]
    plan = plan_batch(sequences, 80, layout="tree")
    together = [set(prompts[row].tolist()) for row in rows_of(plan)]
    # Groups of 60 tokens do not share a row of 80; the one of 140 is two trees: 20 + 6 x 10 each.
    assert sorted(map(sorted, together)) == [[0], [1], [2], [2]]
    assert sorted(plan.tokens[0]) == [60, 60, 80, 80]


def test_a_group_is_split_where_least_is_repeated():
    # A conversation of 40 tokens goes on to two prompts (10 more) with three answers each.
    head = np.arange(40)
    turns = [np.concatenate([head, np.full(10, 100 + t)]) for t in range(2)]
    sequences = [
        np.concatenate([turn, np.full(20, 200 + 10 * t + k)]).astype(np.int32)
        for t, turn in enumerate(turns)
        for k in range(3)
    ]
    plan = plan_batch(sequences, 150, layout="tree")
    assert sorted(sorted(row.tolist()) for row in rows_of(plan)) == [[0, 1, 2], [3, 4, 5]]
    assert plan.tokens == [[110, 110]]


def test_one_row_when_it_fits_and_the_longest_alone_when_it_does_not():
    sequences = group(0, 20, [5, 90])
    assert plan_batch(sequences, 115, layout="tree").tokens == [[115]]
    for layout in ("tree", "packed", "padded"):
        plan = plan_batch(sequences, 30, layout=layout)
        assert sorted(plan.tokens[0]) == [25, 110]
        assert plan.largest_sequences == 1


few_ids = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=25)
grouped = st.lists(
    st.tuples(st.integers(0, 30), st.lists(st.integers(1, 20), min_size=1, max_size=6)), min_size=1, max_size=12
).map(lambda groups: [s for i, (p, a) in enumerate(groups) for s in group(1000 * i, p, a)])


@settings(max_examples=200, deadline=None)
@given(
    sequences=st.one_of(few_ids.map(lambda s: [np.array(x) for x in s]), grouped),
    budget=st.integers(1, 200),
    ranks=st.integers(1, 4),
    layout=st.sampled_from(["tree", "packed", "padded"]),
)
def test_properties(sequences, budget, ranks, layout):
    plan = plan_batch(sequences, budget, ranks, layout=layout, cost=Cost(10.0, 0.5))
    assert len(plan.ranks) == ranks
    assert len({len(rank) for rank in plan.ranks}) == 1
    assert sorted(np.concatenate(rows_of(plan)).tolist()) == list(range(len(sequences)))
    for rank, counts in zip(plan.ranks, plan.tokens, strict=True):
        for row, count in zip(rank, counts, strict=True):
            members = [sequences[i] for i in row]
            if layout == "padded":
                assert count == (max(map(len, members)) * len(members) if members else 0)
            else:
                assert count == (tree_tokens(members, share=layout == "tree") if members else 0)
            assert len(row) <= 1 or count <= budget
    assert plan.largest == max(map(max, plan.tokens))
    everything = sum(map(len, sequences))
    # A tree is never dearer than packing; padding is what padded batches compute beyond the tokens there are.
    assert plan.real_tokens <= everything if layout == "tree" else plan.real_tokens == everything
    assert plan.computed_tokens >= plan.real_tokens


@pytest.mark.parametrize("layout", ["tree", "packed"])
def test_a_plan_is_a_function_of_its_arguments(layout):
    sequences, _ = shuffled([s for i in range(20) for s in group(1000 * i, 10 + i, [5 + i, 9, 14])])
    plans = [plan_batch(sequences, 150, 2, layout=layout) for _ in range(2)]
    assert [[row.tolist() for row in rank] for rank in plans[0].ranks] == [
        [row.tolist() for row in rank] for rank in plans[1].ranks
    ]


@pytest.mark.parametrize("layout", ["tree", "packed"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_have_equal_work_with_attention_counted(layout, ranks):
    generator = np.random.default_rng(0)
    sequences = [
        s
        for i in range(32)
        for s in group(1000 * i, int(generator.integers(20, 400)), generator.integers(20, 400, 3).tolist())
    ]
    # A pair costs a hundredth of a token: for 500 tokens as much as the tokens themselves and more.
    plan = plan_batch(sequences, 4096, ranks, layout=layout, cost=Cost(1.0, 0.01))
    work = [sum(work_of([sequences[i] for i in row], layout) for row in rank) for rank in plan.ranks]
    assert max(work) < 1.05 * min(work)
    alone = plan_batch(sequences, 4096, layout=layout)
    assert len(plan.ranks[0]) == -(-len(alone.ranks[0]) // ranks)


def work_of(sequences: list[np.ndarray], layout: str) -> float:
    """Tokens, and a hundredth of the pairs of a query and a key, counted node by node of the trie."""
    if layout == "packed":
        return sum(len(s) + 0.01 * len(s) * (len(s) + 1) / 2 for s in sequences)
    nodes = {tuple(s[: n + 1].tolist()) for s in sequences for n in range(len(s))}
    return sum(1 + 0.01 * len(node) for node in nodes)


def test_one_large_group_is_shared_out_between_ranks():
    plan = plan_batch(group(0, 50, [40] * 16), 10_000, 2, layout="tree")
    assert [len(row) for rank in plan.ranks for row in rank] == [8, 8]
    assert plan.tokens == [[50 + 8 * 40], [50 + 8 * 40]]


def test_rows_of_a_rank_are_equal_and_the_largest_comes_first():
    sequences = [s for i in range(10) for s in group(1000 * i, 20, [10] * 3)]
    plan = plan_batch(sequences, 210, layout="tree")  # 500 tokens: three rows
    assert plan.tokens == [[200, 150, 150]]


def test_branches_too_short_for_a_segment_never_break_the_budget():
    # Branches every few tokens: what is laid down again for each of them is more than the trie's nodes.
    generator = np.random.default_rng(1)
    sequences = [generator.integers(0, 2, generator.integers(1, 60)) for _ in range(60)]
    for budget in range(60, 400, 17):
        plan = plan_batch(sequences, budget, layout="tree")
        assert all(count <= budget for count in plan.tokens[0])


def test_nothing_to_plan_and_nonsense():
    assert plan_batch([], 10, 2, layout="tree").ranks == [[], []]
    for arguments, message in [((0, 1), "microbatch_tokens is 0"), ((1, 0), "world_size is 0")]:
        for layout in ("tree", "padded"):
            with pytest.raises(ConfigError, match=message):
                plan_batch([np.array([1])], *arguments, layout=layout)
    with pytest.raises(ConfigError, match="no layout 'trees'"):
        plan_batch([np.array([1])], 1, layout="trees")


def test_inputs_of_each_layout():
    sequences = group(5, MIN_SHARED, [2, 1])
    padded = row_inputs(sequences, "padded", 0, "left")
    assert set(padded) == {"input_ids", "attention_mask"}
    assert padded["attention_mask"].tolist() == [[1] * 10, [0, *[1] * 9]]
    tree, packed = (row_inputs(sequences, layout, 0) for layout in ("tree", "packed"))
    assert tree["input_ids"].shape == (1, MIN_SHARED + 3)
    assert packed["input_ids"].shape == (1, 2 * MIN_SHARED + 3)
    moved = to_device(tree, torch.device("meta"))
    assert {name for name, value in moved.items() if value.is_meta} == {"input_ids", "position_ids"}
