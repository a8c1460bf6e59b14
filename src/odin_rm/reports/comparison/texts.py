"""Sample texts side by side: the same prompt answered by each run, early and late, with lengths and rewards."""

from __future__ import annotations

from collections.abc import Sequence

from odin_rm.reports.blocks import Answer, Passage, Sample, Samples, format_number
from odin_rm.reports.chart import thin
from odin_rm.results.records import Judged, Material, Response

Column = tuple[str, dict[str, Response]]


def sample_block(material: Material, most: int) -> Samples | None:
    """Prompts that most of the runs and files have answered, ``most`` of them spread evenly.

    A single run shows its first answer beside its last; several show their last.
    """
    columns = _columns(material)
    counts: dict[str, int] = {}
    for _, answers in columns:
        for prompt in answers:
            counts[prompt] = counts.get(prompt, 0) + 1
    if not counts:
        return None
    widest = max(counts.values())
    prompts = thin([prompt for prompt, count in counts.items() if count == widest], most)
    samples = [
        Sample(Passage(prompt), [_answer(name, answers[prompt]) for name, answers in columns if prompt in answers])
        for prompt in prompts
    ]
    return Samples(samples, "texts")


def judged_block(one: Judged, most: int, anchor: str) -> Samples | None:
    """Pairs of a comparison, baseline and candidate, with what the judge preferred."""
    pairs = thin(one.pairs, most)
    if not pairs:
        return None
    samples = []
    for pair in pairs:
        verdict = _verdict(pair.preference)
        sides = [(one.baseline, "baseline", pair.baseline), (one.candidate, "candidate", pair.candidate)]
        answers = [
            Answer(
                f"{name} ({role})" if name != role else role,
                [("characters", format_number(len(text))), *([("judged", "better")] if verdict == role else [])],
                Passage(text),
            )
            for name, role, text in sides
        ]
        samples.append(Sample(Passage(pair.prompt), answers))
    return Samples(samples, anchor)


def _verdict(preference: float | None) -> str:
    if preference is None or preference == 1.5:
        return ""
    return "candidate" if preference > 1.5 else "baseline"


def _columns(material: Material) -> list[Column]:
    runs = [run for run in material.runs if run.texts]
    columns: list[Column] = []
    for run in runs:
        first, last = run.look("first"), run.look("last")
        if not last:
            newest = max((text.step for text in run.texts if text.step is not None), default=None)
            last = [text for text in run.texts if text.step == newest]
        early = first and first[0].step != last[0].step
        if early and len(runs) + len(material.files) == 1:
            columns.append((f"{run.name}, step {first[0].step:,}", _by_prompt(first)))
        step = last[0].step
        columns.append((run.name if step is None else f"{run.name}, step {step:,}", _by_prompt(last)))
    columns += [(file.name, _by_prompt(file.texts)) for file in material.files]
    return [(name, answers) for name, answers in columns if answers]


def _by_prompt(texts: Sequence[Response]) -> dict[str, Response]:
    """The first answer to each prompt; scored rows that carry no texts are no samples."""
    answers: dict[str, Response] = {}
    for text in texts:
        if text.prompt and (text.response or text.step is not None):
            answers.setdefault(text.prompt, text)
    return answers


def _answer(name: str, text: Response) -> Answer:
    facts = [("tokens", format_number(text.tokens))] if text.tokens is not None else []
    if not facts:
        facts.append(("characters", format_number(len(text.response))))
    for label, value in (
        ("quality", text.quality),
        ("length reward", text.length_reward),
        ("held-out reward", text.held_out),
    ):
        if value is not None:
            facts.append((label, format_number(value, 2)))
    if text.ended is False:
        facts.append(("cut", "yes"))
    return Answer(name, facts, Passage(text.response))
