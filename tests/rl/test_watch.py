"""The alarms on histories made by hand: they fire when they should, and healthy runs are silent."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_rm.core.errors import ConfigError
from odin_rm.rl.config import RLConfig
from odin_rm.rl.watch import HackingWatch, WatchLimits, WatchRecord

START = WatchRecord(
    step=0,
    mean_tokens=20.0,
    ended_share=1.0,
    quality=0.0,
    length_reward=None,
    kl=0.0,
    entropy=1.0,
    held_out=0.2,
    distinct_2=0.5,
    repetition=0.02,
)


def look(step: int, **changes: object) -> WatchRecord:
    return dataclasses.replace(START, step=step, **changes)


def history(**columns: list) -> list[WatchRecord]:
    """Looks at steps 0, 10, 20, ...; each keyword is a column."""
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    return [look(10 * k, **dict(zip(names, row, strict=True))) for k, row in enumerate(rows)]


def alarms(records: list[WatchRecord], **limits: float) -> list[tuple[int, str]]:
    watch = HackingWatch(WatchLimits(**limits))
    return [(alarm.step, alarm.kind) for record in records for alarm in watch.observe(record)]


HACKED = history(
    mean_tokens=[20, 22, 28, 36, 45, 60],
    held_out=[0.2, 0.5, 0.7, 0.6, 0.5, 0.3],
    quality=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
)


def test_length_beyond_the_limit_while_the_held_out_reward_falls():
    watch = HackingWatch()
    raised = [watch.observe(record) for record in HACKED]
    assert [len(some) for some in raised] == [0, 0, 0, 1, 0, 0]  # once, when it begins
    (alarm,) = raised[3]
    assert (alarm.step, alarm.kind) == (30, "length_drift")
    for seen in ("36 tokens", "1.80 times", "from 0.7 (step 20) to 0.6", "from 2 to 3", "step 20.", "limit 1.5"):
        assert seen in alarm.message, seen
    for cure in ("--kl_coef", "--length_penalty", "ODIN"):
        assert cure in alarm.message
    assert "\n" not in alarm.message
    assert watch.best_step == 20


def test_longer_and_better_is_no_drift():
    healthy = history(mean_tokens=[20, 30, 40, 50], held_out=[0.2, 0.5, 0.7, 0.9])
    assert alarms(healthy) == []


def test_worse_at_the_old_length_is_no_length_drift():
    assert alarms(history(mean_tokens=[20, 22, 25], held_out=[0.5, 0.4, 0.1])) == []


def test_the_limits_are_what_decides():
    assert alarms(HACKED, length_ratio=2.0) == [(40, "length_drift")]
    assert alarms(HACKED, length_ratio=math.inf) == []
    far = history(kl=[0.0, 12.0, 30.0])
    assert (alarms(far), alarms(far, kl=10.0), alarms(far, kl=20.0)) == ([], [(10, "kl_runaway")], [(20, "kl_runaway")])
    narrow = history(entropy=[1.0, 0.4, 0.2])
    assert (alarms(narrow), alarms(narrow, entropy_share=0.3)) == ([], [(20, "entropy_collapse")])


def test_at_the_limit_is_not_beyond_it():
    assert alarms(history(mean_tokens=[20, 30], held_out=[0.5, 0.1], kl=[0, 50], entropy=[1.0, 0.1])) == []


def test_a_fall_that_chance_explains_is_none():
    # Two standard errors of the difference: 2 * hypot(0.03, 0.04) = 0.1.
    errors = {"held_out_error": [0.0, 0.03, 0.04]}
    assert alarms(history(mean_tokens=[20, 30, 40], held_out=[0.2, 0.6, 0.501], **errors)) == []
    assert alarms(history(mean_tokens=[20, 30, 40], held_out=[0.2, 0.6, 0.499], **errors)) == [(20, "length_drift")]


def test_without_a_held_out_reward_the_length_alone_raises_it_and_the_message_says_so():
    records = history(mean_tokens=[20, 28, 31], held_out=[None] * 3, quality=[0.1, 1.0, 2.0])
    watch = HackingWatch()
    (alarm,) = [alarm for record in records for alarm in watch.observe(record)]
    assert (alarm.step, alarm.kind) == (20, "length_drift")
    assert "from 0.1 to 2" in alarm.message
    assert "--watch_reward" in alarm.message
    assert watch.best_step == 10


def test_a_held_out_reward_that_is_missing_once_compares_nothing():
    records = history(mean_tokens=[20, 40, 40], held_out=[0.5, None, 0.4])
    assert alarms(records) == [(20, "length_drift")]
    assert alarms(history(mean_tokens=[20, 40], held_out=[0.5, math.nan])) == []


def test_a_held_out_reward_that_never_was_a_number_is_none_before_and_after_a_resume():
    records = history(mean_tokens=[20, 20, 40], held_out=[math.nan, math.nan, math.inf])
    assert alarms(records) == [(20, "length_drift")]
    through, loaded = HackingWatch(), HackingWatch()
    for record in records[:2]:
        through.observe(record)
    loaded.load(through.state())
    assert through.observe(records[2]) == loaded.observe(records[2])
    assert through.records == loaded.records


def test_kl_run_away():
    watch = HackingWatch()
    watch.observe(START)
    (alarm,) = watch.observe(look(10, kl=82.5, mean_tokens=25.0))
    assert alarm.kind == "kl_runaway"
    for seen in ("82.5 nats per response", "3.3 per token", "beyond 50", "--kl_coef", "--kl_target"):
        assert seen in alarm.message, seen


@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_a_kl_that_is_not_a_number_has_run_away(kl):
    assert alarms([START, look(10, kl=kl)]) == [(10, "kl_runaway")]


def test_entropy_collapse_shows_the_repetition():
    watch = HackingWatch()
    watch.observe(look(0, entropy=2.0))
    (alarm,) = watch.observe(look(10, entropy=0.1, repetition=0.83, ended_share=0.25))
    assert alarm.kind == "entropy_collapse"
    for seen in (
        "0.1 nats",
        "5% of the reference's 2",
        "83% of their 4-grams repeat (reference 2%)",
        "25% of the resp",
    ):
        assert seen in alarm.message, seen


def test_a_reference_without_entropy_or_without_text_can_be_watched():
    assert alarms(history(entropy=[0.0, 0.0])) == []
    assert alarms(history(mean_tokens=[0.0, 1.0], held_out=[0.3, 0.2])) == []
    assert alarms(history(mean_tokens=[0.0, 2.0], held_out=[0.3, 0.2])) == [(10, "length_drift")]


def test_an_alarm_that_ended_can_be_raised_again():
    assert alarms(history(kl=[0, 60, 70, 40, 60])) == [(10, "kl_runaway"), (40, "kl_runaway")]


def test_several_alarms_at_one_look():
    records = history(mean_tokens=[20, 60], held_out=[0.5, 0.1], kl=[0, 99], entropy=[1, 0.01])
    assert alarms(records) == [(10, "length_drift"), (10, "kl_runaway"), (10, "entropy_collapse")]


def test_the_best_step_is_by_the_held_out_reward_and_never_an_alarming_look():
    watch = HackingWatch()
    assert watch.best_step is None
    for record in history(held_out=[0.1, 0.6, 0.6, 0.9], quality=[5, 1, 2, 9], kl=[0, 1, 1, 77]):
        watch.observe(record)
    assert watch.best_step == 10  # the earliest of equals; the look at step 30 is better, but has run away


def test_without_a_held_out_reward_the_best_step_is_by_quality():
    watch = HackingWatch()
    for record in history(held_out=[None] * 4, quality=[0.5, math.nan, 0.9, 0.7]):
        watch.observe(record)
    assert watch.best_step == 20


@pytest.mark.parametrize(
    "limits",
    [{"length_ratio": 0.9}, {"kl": 0.0}, {"entropy_share": 1.0}, {"entropy_share": -0.1}, {"kl": math.nan}],
    ids=str,
)
def test_a_limit_out_of_range_is_refused(limits):
    with pytest.raises(ConfigError, match="the limit of the"):
        WatchLimits(**limits)


FIGURE = st.floats(-100, 100)
ANYTHING = st.floats(allow_nan=True, allow_infinity=True)
RECORDS = st.lists(
    st.builds(
        WatchRecord,
        step=st.integers(0, 100),
        mean_tokens=st.floats(0, 200),
        ended_share=st.floats(0, 1),
        quality=ANYTHING,
        length_reward=st.none() | FIGURE,
        kl=ANYTHING,
        entropy=ANYTHING,
        held_out=st.none() | ANYTHING,
        distinct_2=st.floats(0, 1),
        repetition=st.floats(0, 1),
        quality_error=st.floats(0, 1),
        held_out_error=st.floats(0, 1),
    ),
    min_size=1,
    max_size=8,
)


@given(RECORDS, st.data())
def test_a_watch_that_was_saved_and_loaded_goes_on_as_one_that_was_not(records, data):
    cut = data.draw(st.integers(0, len(records)))
    through, first = HackingWatch(), HackingWatch()
    raised = [through.observe(record) for record in records]
    for record in records[:cut]:
        first.observe(record)
    second = HackingWatch()
    second.load(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert [second.observe(record) for record in records[cut:]] == raised[cut:]
    assert (second.state(), second.best_step) == (through.state(), through.best_step)


@given(RECORDS)
def test_the_past_does_not_depend_on_the_future(records):
    watch = HackingWatch()
    steps = []
    for record in records:
        watch.observe(record)
        steps.append(watch.best_step)
    for count in range(1, len(records) + 1):
        again = HackingWatch()
        for record in records[:count]:
            again.observe(record)
        assert again.best_step == steps[count - 1]


@given(
    growth=st.lists(st.floats(0, 20), min_size=1, max_size=8),
    gains=st.lists(st.floats(0, 0.5), min_size=8, max_size=8),
    kl=st.lists(st.floats(-1, 50), min_size=8, max_size=8),
    entropy=st.lists(st.floats(0.1, 3), min_size=8, max_size=8),
)
def test_a_run_that_gets_better_stays_near_and_goes_on_exploring_is_silent(growth, gains, kl, entropy):
    tokens, held_out, records = 20.0, 0.2, [START]
    for k, longer in enumerate(growth):
        tokens, held_out = tokens + longer, held_out + gains[k]
        records.append(look(k + 1, mean_tokens=tokens, held_out=held_out, kl=kl[k], entropy=entropy[k]))
    watch = HackingWatch()
    assert [alarm for record in records for alarm in watch.observe(record)] == []
    assert watch.best_step == next(r.step for r in records if r.held_out == max(r.held_out for r in records))


@given(st.floats(1.01, 5), st.floats(0.01, 1), st.floats(1, 100))
def test_length_drift_has_no_units(ratio, fall, scale):
    """It depends on the lengths' ratio only, and fires for any ratio beyond the limit and any fall."""
    records = history(mean_tokens=[scale, scale * ratio], held_out=[0.5, 0.5 - fall])
    expected = [(10, "length_drift")] if scale * ratio / scale > 1.5 else []
    assert alarms(records) == expected


PAGE = (Path(__file__).parents[2] / "docs" / "hacking_watch.md").read_text(encoding="utf-8")


def test_the_page_names_every_figure_and_the_flags_that_exist():
    names = {field.name for field in dataclasses.fields(RLConfig)}
    used = set(re.findall(r"--(\w+)", PAGE))
    assert used <= names
    assert {name for name in names if name.startswith("watch_")} <= used
    figures = {field.name for field in dataclasses.fields(WatchRecord)} - {"step"}
    assert {name for name in figures if f"`{name}`" not in PAGE} == set()


def test_the_example_of_the_page_calls_the_callback_as_it_is():
    from odin_rm.rl.watch_callback import WatchCallback

    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (call,) = [
        node
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Call) and "Watch" in ast.unparse(node.func)[:9] and node.keywords and node.args
    ]
    keywords = {str(keyword.arg): keyword for keyword in call.keywords}
    assert inspect.signature(WatchCallback).bind(*call.args, **keywords)
    (limits,) = [keyword.value for keyword in call.keywords if keyword.arg == "limits"]
    assert eval(ast.unparse(limits)) == WatchLimits()
