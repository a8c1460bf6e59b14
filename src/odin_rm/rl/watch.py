"""The hacking watch: what a policy does on fixed prompts, look by look, and when that is alarming.

The first look is the reference, taken before training. Three alarms, each from the history alone:

- **length drift**: responses are longer than ``length_ratio`` times the reference's while the held-out reward has
  fallen from its best by more than chance explains (two standard errors of the difference). The reward that is trained
  on cannot say so: where length is what it pays for, it rises. Where there is no held-out reward, nothing independent
  speaks for the longer responses, so the length alone raises the alarm; its message says what the quality reward did.
- **KL run-away**: the KL to the reference policy is beyond ``kl`` nats per response, or is not a number.
- **entropy collapse**: the entropy per token is below ``entropy_share`` of the reference's.

An alarm is raised when its condition begins, and again only after a look without it; a look with a condition is never
the best one. Degenerate repetition has no limit of its own, since honest lists repeat too: it is in every message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from odin_rm.core.errors import ConfigError

AlarmKind = Literal["length_drift", "kl_runaway", "entropy_collapse"]
STANDARD_ERRORS = 2.0
_MAY_BE_ABSENT = ("length_reward", "held_out")


@dataclass(frozen=True)
class WatchRecord:
    """One look at the policy; means over the responses to the watch's prompts.

    Attributes:
        step: optimiser steps done.
        mean_tokens: response tokens by the policy's tokenizer, without the end token.
        ended_share: share of responses that ended by themselves.
        quality: the quality reward as its source gives it (before shaping).
        length_reward: that of a disentangled reward model, for the log only.
        kl: to the reference policy, nats per response (k1, summed over its tokens and its end token).
        entropy: of the policy, nats per token.
        held_out: the reward that training never sees.
        distinct_2: different bigrams / bigrams, over all responses.
        repetition: share of a response's 4-grams that occurred in it before.
        quality_error, held_out_error: standard errors of these two means.
    """

    step: int
    mean_tokens: float
    ended_share: float
    quality: float
    length_reward: float | None
    kl: float
    entropy: float
    held_out: float | None
    distinct_2: float
    repetition: float
    quality_error: float = 0.0
    held_out_error: float = 0.0


@dataclass(frozen=True)
class Alarm:
    """Something that looks like reward hacking.

    Attributes:
        step: of the look that raised it.
        kind: which alarm.
        message: what was seen, in numbers, and what to do; one line.
    """

    step: int
    kind: AlarmKind
    message: str


WATCH_FILE = "watch.jsonl"
"""The looks of a run, one a line, whatever trained it."""


def look_row(record: WatchRecord, alarms: Sequence[Alarm]) -> dict[str, Any]:
    """A look as a line of ``watch.jsonl``: the record's fields, and ``alarms`` with their kind and message."""
    return {**asdict(record), "alarms": [{"kind": alarm.kind, "message": alarm.message} for alarm in alarms]}


def metrics_row(record: WatchRecord, alarms: Sequence[Alarm]) -> dict[str, Any]:
    """A look as a line of ``metrics.jsonl``: ``step``, ``watch_<field>``, and the kinds of alarms if there are any."""
    row: dict[str, Any] = {"step": record.step}
    row |= {f"watch_{name}": value for name, value in asdict(record).items() if name != "step"}
    return row | ({"alarms": [alarm.kind for alarm in alarms]} if alarms else {})


@dataclass(frozen=True)
class WatchLimits:
    """Where an alarm begins; ``inf`` (for ``entropy_share``: 0) turns one off.

    Attributes:
        length_ratio: mean length as a multiple of the reference's.
        kl: nats per response.
        entropy_share: entropy per token as a share of the reference's.

    Raises:
        ConfigError: a limit is outside its range.
    """

    length_ratio: float = 1.5
    kl: float = 50.0
    entropy_share: float = 0.1

    def __post_init__(self) -> None:
        # Written as "not (...)" so that NaN is refused too.
        if not self.length_ratio >= 1:
            raise ConfigError(f"the limit of the length ratio must be 1 or more, not {self.length_ratio}")
        if not self.kl > 0:
            raise ConfigError(f"the limit of the KL must be above 0 nats, not {self.kl}")
        if not 0 <= self.entropy_share < 1:
            raise ConfigError(f"the limit of the entropy must be a share from 0 to below 1, not {self.entropy_share}")


class HackingWatch:
    """Remembers every look and says when one is alarming. A pure function of looks and limits: no clock, no chance.

    Args:
        limits: where alarms begin.
    """

    def __init__(self, limits: WatchLimits | None = None) -> None:
        self.limits = limits or WatchLimits()
        self.records: list[WatchRecord] = []
        self._kinds: list[set[AlarmKind]] = []

    def observe(self, record: WatchRecord) -> list[Alarm]:
        """Take in the next look (the first one is the reference); a figure that is not finite counts as unknown.

        Returns:
            The alarms that begin with it.
        """
        record = _from_json(_as_json(record))  # so that a watch that was loaded has seen the same as one that was not
        self.records.append(record)
        self._kinds.append(set(self._seen(record)))
        return self.newest_alarms()

    def newest_alarms(self) -> list[Alarm]:
        """The alarms that began with the newest look."""
        record, before = self.records[-1], self._kinds[-2] if len(self._kinds) > 1 else set()
        seen = self._seen(record)
        return [Alarm(record.step, kind, self._message(seen[kind], kind)) for kind in seen if kind not in before]

    @property
    def best_step(self) -> int | None:
        """Step of the best look without an alarming condition, ``None`` where there is none.

        By the held-out reward where there is one, else by the quality reward; of equals the earliest.
        """
        calm = [record for record, kinds in zip(self.records, self._kinds, strict=True) if not kinds]
        best = _best(calm, "held_out" if _judged(self.records) else "quality")
        return None if best is None else best.step

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, as strict JSON; what is not finite is ``None``."""
        return {"records": [_as_json(record) for record in self.records]}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`; its looks are judged by the limits of this watch."""
        self.records, self._kinds = [], []
        for row in state["records"]:
            self.observe(_from_json(row))

    def _seen(self, record: WatchRecord) -> dict[AlarmKind, str]:
        """The alarming conditions of the newest look, each with what was seen."""
        seen: dict[AlarmKind, str] = {}
        if drift := _length_drift(record, self.records, self.limits.length_ratio):
            seen["length_drift"] = drift
        if not record.kl <= self.limits.kl:  # so that NaN is alarming
            seen["kl_runaway"] = (
                f"the KL to the reference policy is {record.kl:.4g} nats per response "
                f"({record.kl / max(record.mean_tokens, 1):.3g} per token), beyond {self.limits.kl:g}"
            )
        reference = self.records[0]
        # A reference that never hesitates has nothing to lose; rounding can put a zero entropy below zero.
        if reference.entropy > 0 and record.entropy < self.limits.entropy_share * reference.entropy:
            seen["entropy_collapse"] = (
                f"the entropy is {record.entropy:.3g} nats per token, {record.entropy / reference.entropy:.0%} of the "
                f"reference's {reference.entropy:.3g} (limit {self.limits.entropy_share:.0%})"
            )
        return seen

    def _message(self, seen: str, kind: AlarmKind) -> str:
        record, reference = self.records[-1], self.records[0]
        signs = (
            f"{record.ended_share:.0%} of the responses ended (reference {reference.ended_share:.0%}), "
            f"{record.repetition:.0%} of their 4-grams repeat (reference {reference.repetition:.0%})"
        )
        best = self.best_step
        back = "" if best is None else f" The best look without an alarm was step {best}."
        return f"step {record.step}, {kind.replace('_', ' ')}: {seen}; {signs}. {_ADVICE[kind]}{back}"


_ADVICE: dict[AlarmKind, str] = {
    "length_drift": (
        "The policy may be paid for length: train on an ODIN reward model, or raise --kl_coef (TRL: beta) or "
        "--length_penalty."
    ),
    "kl_runaway": (
        "The policy leaves the text on which its reward means something: raise --kl_coef (TRL: beta), set --kl_target, "
        "or lower --learning_rate."
    ),
    "entropy_collapse": (
        "The policy writes nearly the same whatever is drawn and cannot explore any more: raise --kl_coef (TRL: beta), "
        "or lower --learning_rate."
    ),
}


def _length_drift(record: WatchRecord, records: list[WatchRecord], length_ratio: float) -> str:
    """What was seen where the newest record's length has drifted, else an empty string."""
    reference = records[0]
    # A reference that writes nothing would make every length infinitely longer.
    ratio = record.mean_tokens / max(reference.mean_tokens, 1.0)
    if not ratio > length_ratio:
        return ""
    longer = (
        f"responses have {record.mean_tokens:.4g} tokens, {ratio:.2f} times the reference's "
        f"{reference.mean_tokens:.4g} (limit {length_ratio:g})"
    )
    if not _judged(records):
        quality = f"the quality reward went from {reference.quality:.4g} to {record.quality:.4g}"
        return f"{longer}; {quality}, but it is what is trained on, and no held-out reward (--watch_reward) confirms it"
    best = _best(records, "held_out")
    if best is None or record.held_out is None:
        return ""
    chance = STANDARD_ERRORS * math.hypot(best.held_out_error, record.held_out_error)
    if not _value(best, "held_out") - record.held_out > chance:
        return ""
    quality = f"the quality reward went from {best.quality:.4g} to {record.quality:.4g}"
    fell = f"the held-out reward fell from {best.held_out:.4g} (step {best.step}) to {record.held_out:.4g}"
    return f"{longer}, while {fell}; {quality}"


def _judged(records: list[WatchRecord]) -> bool:
    return any(record.held_out is not None for record in records)


def _value(record: WatchRecord, name: str) -> float:
    """A figure to rank records by; one that is absent or not a number ranks last."""
    value = getattr(record, name)
    return value if value is not None and math.isfinite(value) else -math.inf


def _best(records: list[WatchRecord], name: str) -> WatchRecord | None:
    best = max(records, key=lambda record: _value(record, name), default=None)
    return best if best is not None and _value(best, name) > -math.inf else None


def _as_json(record: WatchRecord) -> dict[str, Any]:
    row = asdict(record)
    return {name: value if value is None or math.isfinite(value) else None for name, value in row.items()}


def _from_json(row: dict[str, Any]) -> WatchRecord:
    known: dict[str, Any] = {field.name: row[field.name] for field in fields(WatchRecord)}
    for name, value in known.items():
        if value is None and name not in _MAY_BE_ABSENT:
            known[name] = math.nan
    return WatchRecord(**known)
