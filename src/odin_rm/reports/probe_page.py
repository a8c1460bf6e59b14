"""The page of ``odin-rm probe``: what the reward can be bought with, a sentence and a point for each thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odin_rm.evaluation.records import Figure
from odin_rm.reports.blocks import Percent, Table, Text, format_number
from odin_rm.reports.chart import Chart, Mark, Series
from odin_rm.reports.page import Report
from odin_rm.reports.sections import Charts, Section

_GROUPS = {
    "length": ("More words, nothing more said", "and one control: half an answer should lose."),
    "form": ("Another form, the same words", "marks and blanks; no word is changed."),
    "tone": ("Another tone", "agreement, doubt, compliments; the answer itself stays."),
    "own pairs": ("Your own pairs", "the edited side against the original."),
}
_HOW_TO_READ = """
Each point is the mean change of the reward when one thing is changed and nothing that matters. The unit is the
deviation of the reward among responses to one prompt: at 0.5, an edit moves a response past about one in five of its
rivals. A reward that is deaf to the edit is at 0. Prices divide the change by how much of the attribute the edit
brought.
"""


def probe_report(content: Mapping[str, Any]) -> Report:
    """The page.

    Args:
        content: of ``probe.json``.
    """
    groups = {edit["group"] for edit in content["edits"].values()}
    notes = []
    if content["responses_too_long"]:
        notes.append(f"{content['responses_too_long']:,} responses do not fit the model's window and are left out.")
    if content["deviation_of"] == "all responses":
        notes.append("No prompt has two responses: deviations are those of all responses.")
    parts = [Section("What it pays for", [_sentences(content), Text(_HOW_TO_READ), _prices(content)])]
    parts += [
        Section(title, [Text(f"{title}: {rest}"), Charts([_chart(content, group, title)])])
        for group, (title, rest) in _GROUPS.items()
        if group in groups
    ]
    parts.append(Section("Does it read the question?", [_prompt_table(content)]))
    return Report(
        title="What can this reward be bought with?",
        subtitle=f"{content['model']} on {content['dataset']}: {content['responses']:,} responses to "
        f"{content['prompts']:,} prompts",
        headline=[_headline(content)],
        sections=parts,
        notes=notes,
    )


def _strength(edit: Mapping[str, Any]) -> float:
    low, high, value = edit["change"].get("low"), edit["change"].get("high"), edit["change"]["value"]
    clear = value is not None and low is not None and high is not None and not low <= 0 <= high
    return abs(value) if clear else 0.0


def _headline(content: Mapping[str, Any]) -> str:
    edits = {name: edit for name, edit in content["edits"].items() if not edit["control"]}
    strongest = sorted(edits, key=lambda name: -_strength(edits[name]))[:3]
    clear = [name for name in strongest if _strength(edits[name]) > 0]
    if not clear:
        return (
            f"{content['model']} does not clearly pay for any of {len(edits)} edits that change nothing of substance."
        )
    parts = [f"{format_number(edits[n]['change']['value'], 2)} when {edits[n]['words']}" for n in clear]
    text = f"{content['model']} moves most, in deviations among responses to a prompt: {'; '.join(parts)}."
    swapped = content["prompt_edits"]["swapped"]["agreement"]["value"]
    if swapped is not None:
        text += f" Asked another question, it keeps {format_number(swapped, percent=True)} of its verdicts."
    return text


def _sentences(content: Mapping[str, Any]) -> Text:
    order = sorted(content["edits"], key=lambda name: -_strength(content["edits"][name]))
    return Text("\n\n".join(f"It {content['sentences'][name]}" for name in order))


def _prices(content: Mapping[str, Any]) -> Table:
    rows = []
    for name, edit in content["edits"].items():
        unit = f"per {edit['unit']}" if edit["unit"] else ""
        share = Percent(Figure.from_json(edit["won"]))
        rows.append(
            [_label(name), edit["n"], Figure.from_json(edit["change"]), share, Figure.from_json(edit["price"]), unit]
        )
    columns = ["Edit", "Responses", "Change", "Edited side wins", "Price", "Unit"]
    note = "Change and price in deviations of the reward among responses to a prompt, with 95 % intervals by prompt."
    return Table("The price list.", columns, rows, note=note, digits=3)


def _label(name: str) -> str:
    return name.replace("_", " ")


def _chart(content: Mapping[str, Any], group: str, title: str) -> Chart:
    edits = {name: edit for name, edit in content["edits"].items() if edit["group"] == group}
    known = {name: edit for name, edit in edits.items() if edit["change"]["value"] is not None}
    values = [edit["change"]["value"] for edit in known.values()]
    alt = ", ".join(f"{_label(name)} {format_number(value, 2)}" for name, value in zip(known, values, strict=True))
    series = Series(
        content["model"],
        [_label(name) for name in known],
        values,
        [edit["change"].get("low") for edit in known.values()],
        [edit["change"].get("high") for edit in known.values()],
        [content["sentences"][name] for name in known],
        style="points",
    )
    return Chart(
        file=f"edits_{group.replace(' ', '_')}",
        title=title,
        x_label="",
        y_label="change of the reward, in deviations",
        series=[series],
        caption="Mean of edited minus original with its 95 % interval. The dashed line is a reward that does not mind.",
        alt=f"Points by edit: {alt or 'none'}.",
        digits=2,
        marks=[Mark(0.0, "does not mind")],
    )


def _prompt_table(content: Mapping[str, Any]) -> Table:
    labelled = "accuracy" in content["prompt_edits"]["swapped"]
    rows = []
    for edit in content["prompt_edits"].values():
        row: list[Any] = [f"When {edit['words']}", edit["n"], Percent(Figure.from_json(edit["agreement"]))]
        if labelled:
            row += [Percent(Figure.from_json(edit["accuracy_before"])), Percent(Figure.from_json(edit["accuracy"]))]
        rows.append(row)
    columns = ["The prompt", "Pairs", "Verdicts kept", *(["Accuracy before", "Accuracy then"] if labelled else [])]
    note = (
        "A reward that reads the question keeps half of its verdicts when another one is asked; one that does not, all."
    )
    return Table("The same responses, another question.", columns, rows, note=note)
