"""Probing a reward model: every edit of every response is scored, and so are the responses to other prompts.

All texts go to the scorer together, those of a prompt side by side, so that a shared prompt is computed once. The
folder holds ``probe.json`` and ``report.html``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.files import atomic_write_json
from odin_rm.data.attributes import TOKENS, Attribute, find_attribute, measure_texts
from odin_rm.data.columns import Columns
from odin_rm.evaluation.edits import EDITS, Edit, priced_attributes, shuffled_words, swapped
from odin_rm.evaluation.price_list import price_list, usual_difference
from odin_rm.evaluation.probe import edit_figures, price_sentence, reward_change, verdicts_kept, within_deviation
from odin_rm.runs.output_folder import check_output_folder, replaced_folder, writer_of
from odin_rm.workflows.probe.config import ProbeConfig
from odin_rm.workflows.probe.rows import (
    OWN_FIELDS,
    TWINS,
    OwnPairs,
    ProbedRows,
    edited_reply,
    read_own_pairs,
    read_probed,
    reply_text,
)

PROMPT_EDITS = {
    "swapped": "another question is asked in its place",
    "emptied": "nothing is asked",
    "shuffled": "the words of the question are shuffled",
}


@dataclass
class _Texts:
    """Everything to be scored, and where each answer belongs."""

    prompts: list[Any] = field(default_factory=list)
    responses: list[Any] = field(default_factory=list)
    calibration: dict[str, Any] | None = None

    def add(self, prompt: Any, response: Any) -> int:
        self.prompts.append(prompt)
        self.responses.append(response)
        return len(self.prompts) - 1


def run_probe(config: ProbeConfig) -> dict[str, Any]:
    """Probe the model and write the folder.

    Returns:
        The content of ``probe.json``.

    Raises:
        OdinError: an edit that there is not, rows that cannot be used, a model that cannot be loaded.
    """
    wanted = _wanted_edits(config)
    check_output_folder(config.output, "probe", overwrite=config.overwrite_output)
    of_rows = config.columns if config.pairs is None else Columns(config.columns).but(OWN_FIELDS)
    rows = read_probed(config.dataset, of_rows, config.responses, config.seed, config.on_bad_row)
    own = [] if config.pairs is None else read_own_pairs(config.pairs, config.on_bad_row, config.columns)
    texts = _Texts()
    place_R = [texts.add(p, r) for p, r in zip(rows.prompts, rows.responses, strict=True)]
    edited = {edit.name: _edited(texts, rows, edit) for edit in wanted}
    asked = {name: _other_prompts(texts, rows, name) for name in PROMPT_EDITS}
    pairs = [
        [texts.add(p, r) for p, r in zip(one.prompts, side, strict=True)]
        for one in own
        for side in (one.originals, one.edited)
    ]
    quality, tokens = _scored(config, texts)
    probed = _Probed(config, rows, texts, quality, tokens, np.array(place_R))
    content = probed.content(wanted, edited, asked, own, pairs)
    from odin_rm.reports.page import render_report, write_page
    from odin_rm.reports.probe_page import probe_report

    html, files = render_report(probe_report(content))
    with writer_of(config.output), replaced_folder(config.output, "probe") as folder:
        write_page(folder, html, files)
        atomic_write_json(folder / "probe.json", content)
    return content


def _wanted_edits(config: ProbeConfig) -> list[Edit]:
    known = {edit.name: edit for edit in EDITS}
    for name in config.edits:
        if name not in known:
            raise ConfigError(f"there is no edit '{name}'", where="--edits", fix=f"Use {', '.join(known)}.")
    return [known[name] for name in config.edits] if config.edits else list(EDITS)


def _edited(texts: _Texts, rows: ProbedRows, edit: Edit) -> list[tuple[int, int]]:
    """``(response, text)`` of every response that the edit changes."""
    found = []
    for k, (prompt, response) in enumerate(zip(rows.prompts, rows.responses, strict=True)):
        changed = edited_reply(response, edit.apply)
        if changed is not None:
            found.append((k, texts.add(prompt, changed)))
    return found


def _other_prompts(texts: _Texts, rows: ProbedRows, name: str) -> list[int]:
    """The text of every response with another prompt."""
    by_number = dict(zip(rows.prompt, rows.prompts, strict=True))
    others = swapped(len(by_number))

    def asked(k: int) -> Any:
        if name == "swapped":
            return by_number[others[rows.prompt[k]]]
        return _with_last(rows.prompts[k], "" if name == "emptied" else None)

    return [texts.add(asked(k), rows.responses[k]) for k in range(len(rows.responses))]


def _with_last(prompt: Any, text: str | None) -> Any:
    """The prompt with its last message replaced, or with the words of that message shuffled."""
    if isinstance(prompt, str):
        return shuffled_words(prompt) if text is None else text
    last = prompt[-1]
    return [*prompt[:-1], {**last, "content": shuffled_words(last["content"]) if text is None else text}]


def _scored(config: ProbeConfig, texts: _Texts) -> tuple[np.ndarray, np.ndarray]:
    """Scores in the order of the texts; computed with those of one prompt side by side."""
    from odin_rm.workflows.model_scores import calibration_record, scorer_of, scores_of

    scorer = scorer_of(config, config.model)
    texts.calibration = calibration_record(scorer)
    order = sorted(range(len(texts.prompts)), key=lambda k: repr(texts.prompts[k]))
    found = scores_of(scorer, [texts.prompts[k] for k in order], [texts.responses[k] for k in order], config)
    quality, tokens = np.empty(len(order)), np.empty(len(order))
    quality[order], tokens[order] = found
    return quality, tokens


class _Probed:
    """Scores and attributes of all texts, made into ``probe.json``."""

    def __init__(
        self, config: ProbeConfig, rows: ProbedRows, texts: _Texts, quality: np.ndarray, tokens: np.ndarray,
        place_R: np.ndarray,
    ) -> None:  # fmt: skip
        self.config, self.rows, self.texts, self.quality, self.tokens = config, rows, texts, quality, tokens
        self.place_R, self.prompt_R = place_R, np.array(rows.prompt)
        original = quality[place_R]
        self.read = np.isfinite(original)
        if not self.read.any():
            fix = "Give --max_length room, or say what to do with long texts by --overlong."
            raise DataError("no response fits the model's window", where=config.dataset, fix=fix)
        self.deviation, self.deviation_of = within_deviation(original[self.read], self.prompt_R[self.read])

    @property
    def _options(self) -> dict[str, Any]:
        return {"bootstrap_samples": self.config.bootstrap_samples, "seed": self.config.seed}

    def content(
        self,
        edits: list[Edit],
        edited: dict[str, list[tuple[int, int]]],
        asked: dict[str, list[int]],
        own: list[OwnPairs],
        pairs: list[list[int]],
    ) -> dict[str, Any]:
        """The whole of ``probe.json``."""
        found: dict[str, Any] = {}
        for edit in edits:
            places = edited[edit.name]
            originals = self.place_R[[k for k, _ in places]] if places else np.zeros(0, dtype=int)
            after = np.array([place for _, place in places], dtype=int)
            prompt = self.prompt_R[[k for k, _ in places]] if places else originals
            head = {"words": edit.words, "group": edit.group, "control": edit.control}
            found[edit.name] = self._edit(head, edit.attribute, originals, after, prompt)
        for k, one in enumerate(own):
            originals, after = np.array(pairs[2 * k]), np.array(pairs[2 * k + 1])
            prompt = np.unique([repr(p) for p in one.prompts], return_inverse=True)[1]
            words = "it is the longer twin" if one.name == TWINS else f"it is the edited side of '{one.name}'"
            head = {"words": words, "group": "own pairs", "control": False}
            found[one.name] = self._edit(head, one.attribute, originals, after, prompt)
        chosen, rejected, labelled = self._pairs()
        kept = {
            name: {
                "words": PROMPT_EDITS[name],
                **verdicts_kept(
                    self.quality[self.place_R], self.quality[asked[name]], chosen, rejected, self.prompt_R, labelled,
                    **self._options,
                ),
            }
            for name in PROMPT_EDITS
        }  # fmt: skip
        return {
            "model": self.config.model,
            "dataset": self.config.dataset,
            "responses": len(self.place_R),
            "responses_too_long": int((~self.read).sum()),
            "prompts": len(np.unique(self.prompt_R)),
            "pairs": len(chosen) if labelled else 0,
            "deviation": self.deviation,
            "deviation_of": self.deviation_of,
            "edits": found,
            "prices": self._prices(edits, edited, own, pairs),
            "prompt_edits": kept,
            "sentences": {name: price_sentence(name, one) for name, one in found.items()},
            "bootstrap": {"samples": self.config.bootstrap_samples, "seed": self.config.seed, "resampled": "prompts"},
            "calibration": self.texts.calibration,
            "data_report": {"rows": self.rows.rows, "skipped_rows": self.rows.skipped},
        }

    def _prices(
        self,
        edits: list[Edit],
        edited: dict[str, list[tuple[int, int]]],
        own: list[OwnPairs],
        pairs: list[list[int]],
    ) -> dict[str, Any]:
        """What each attribute costs, others equal, from every pure edit and from the user's own edited pairs."""
        pure = [edit for edit in edits if edit.pure]
        names = dict.fromkeys(name for edit in pure for name in priced_attributes(edit))
        before = [np.array([self.place_R[k] for k, _ in edited[edit.name]], dtype=int) for edit in pure]
        after = [np.array([place for _, place in edited[edit.name]], dtype=int) for edit in pure]
        prompt = [self.prompt_R[np.array([k for k, _ in edited[edit.name]], dtype=int)] for edit in pure]
        for k, one in enumerate(own):
            if one.name == TWINS:
                continue  # two answers by the same writer: they may differ in more than what is counted
            names[one.attribute] = None
            before.append(np.array(pairs[2 * k], dtype=int))
            after.append(np.array(pairs[2 * k + 1], dtype=int))
            known = {repr(p): number for p, number in zip(self.rows.prompts, self.rows.prompt, strict=True)}
            prompt.append(np.array([known.setdefault(repr(p), len(known)) for p in one.prompts], dtype=int))
        first, second = np.concatenate([*before, np.zeros(0, int)]), np.concatenate([*after, np.zeros(0, int)])
        held = np.isfinite(self.quality[first]) & np.isfinite(self.quality[second])
        first, second, clusters = first[held], second[held], np.concatenate([*prompt, np.zeros(0, int)])[held]
        attributes = [find_attribute(name) for name in names]
        read = np.flatnonzero(self.read)
        usual = {
            one.name: usual_difference(self._attribute(one, self.place_R[read]), self.prompt_R[read], one.step)
            for one in attributes
        }
        units = {a.name: (self._attribute(a, second) - self._attribute(a, first)) / a.step for a in attributes}
        change = reward_change(self.quality[first], self.quality[second], self.deviation)
        found = price_list(change, units, usual, clusters, **self._options)
        return {a.name: {"words": a.words, "unit": a.unit, **found[a.name].to_json()} for a in attributes}

    def _edit(
        self, head: dict[str, Any], name: str, original: np.ndarray, after: np.ndarray, prompt: np.ndarray
    ) -> dict[str, Any]:
        held = np.isfinite(self.quality[original]) & np.isfinite(self.quality[after])
        left_out = len(held) - int(held.sum())
        original, after, prompt = original[held], after[held], prompt[held]
        attribute = find_attribute(name) if name else None
        change = None if attribute is None else self._attribute(attribute, after) - self._attribute(attribute, original)
        step = 1.0 if attribute is None else attribute.step
        figures = edit_figures(
            self.quality[original], self.quality[after], change, step, self.deviation, prompt, **self._options
        )
        return {
            "attribute": name or None,
            "attribute_words": None if attribute is None else attribute.words,
            "unit": None if attribute is None else attribute.unit,
            **head,
            **figures.to_json(),
            "too_long": left_out,
        }

    def _attribute(self, attribute: Attribute, places: np.ndarray) -> np.ndarray:
        if attribute.name == TOKENS:
            return self.tokens[places]
        return measure_texts([reply_text(self.texts.responses[k]) for k in places], [attribute])[attribute.name]

    def _pairs(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """The stated pairs, or every two responses of a prompt."""
        pairs = self.rows.pairs or [
            (a, b)
            for a in range(len(self.prompt_R))
            for b in range(a + 1, len(self.prompt_R))
            if self.prompt_R[a] == self.prompt_R[b]
        ]
        table = np.array(pairs, dtype=int).reshape(-1, 2)
        return table[:, 0], table[:, 1], bool(self.rows.pairs)
