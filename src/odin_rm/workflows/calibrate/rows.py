"""What a model is calibrated on: responses of the domain, their writers and labels, edits of them and twins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.data.attributes import TOKENS
from odin_rm.data.columns import Columns
from odin_rm.data.render import Prompt, Reply
from odin_rm.data.rows import parse_preference_row, parse_prompt_response
from odin_rm.data.sources import iter_preference_rows
from odin_rm.evaluation.edits import EDITS, Edit
from odin_rm.workflows.calibrate.config import CalibrateConfig
from odin_rm.workflows.probe.rows import edited_reply

_SIDES = (("shorter", "longer"), ("original", "edited"))
_LENGTH_GROUP = "length"


@dataclass
class Material:
    """Distinct texts to score, and what is compared.

    Attributes:
        prompts, responses: of each text.
        number: prompt number of each text.
        domain: numbers of the texts that the curve is fitted on.
        writers: of these, the name or ``None``.
        labelled: pairs of text numbers, chosen first.
        pairs: first and second text number, and the kind of pair.
        skipped: unusable rows that were left out.
        rows: rows that were read.
    """

    prompts: list[Prompt] = field(default_factory=list)
    responses: list[Reply] = field(default_factory=list)
    number: list[int] = field(default_factory=list)
    domain: list[int] = field(default_factory=list)
    writers: list[str | None] = field(default_factory=list)
    labelled: list[tuple[int, int]] = field(default_factory=list)
    pairs: list[tuple[int, int, str]] = field(default_factory=list)
    skipped: int = 0
    rows: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)
    _places: dict[tuple[int, str], int] = field(default_factory=dict)
    _in_domain: set[int] = field(default_factory=set)

    def text(self, prompt: Prompt, response: Reply) -> int:
        """The number of a text; one that is there already keeps its own."""
        number = self._numbers.setdefault(repr(prompt), len(self._numbers))
        key = (number, repr(response))
        if key not in self._places:
            self._places[key] = len(self.prompts)
            self.prompts.append(prompt)
            self.responses.append(response)
            self.number.append(number)
        return self._places[key]

    def of_domain(self, prompt: Prompt, response: Reply, writer: str | None) -> int:
        """A text that the curve is fitted on."""
        place = self.text(prompt, response)
        if place not in self._in_domain:
            self._in_domain.add(place)
            self.domain.append(place)
            self.writers.append(writer)
        return place


def read_material(config: CalibrateConfig) -> Material:
    """Everything to be scored.

    Raises:
        RowError: an unusable row, where it may not be skipped.
        DataError: no row can be used.
        ConfigError: an edit that there is not, or none for an attribute.
    """
    assert config.dataset is not None  # checked by the config
    edits = wanted_edits(config) if config.anchor == "interventions" else []
    found = Material()
    columns = Columns(config.columns)
    own_twins = config.anchor == "twins" and config.twins is None
    _read(config, config.dataset, found, columns, lambda row: _add_row(found, row, own_twins))
    if not found.domain:
        raise DataError("no usable row", where=config.dataset, fix="Give several responses to each prompt.")
    if config.anchor == "writers" and len({name for name in found.writers if name is not None}) < 2:
        fix = "Give rows with chosen_model and rejected_model, or writer (docs/calibrate.md)."
        raise DataError("the rows name no two writers", where=config.dataset, fix=fix)
    if config.twins is not None:
        _read(config, config.twins, found, Columns(()), lambda row: _add_twins(found, row, False))
    if config.anchor == "interventions":
        _add_edits(found, edits, config.responses, config.seed)
    if config.anchor in ("interventions", "twins") and not found.pairs:
        if config.anchor == "twins":
            fix = "Give --twins F: rows of prompt, shorter and longer."
            raise DataError("has no twins", where=config.twins or config.dataset, fix=fix)
        raise DataError("no response has anything to edit", where=config.dataset, fix="Choose other --edits.")
    return found


def _read(
    config: CalibrateConfig, source: str, found: Material, columns: Columns, add: Callable[[Mapping[str, Any]], None]
) -> None:
    skip: Callable[[RowError], None] | None = None
    if config.on_bad_row == "skip":

        def skip(error: RowError) -> None:
            found.skipped += 1

    for k, placed in enumerate(iter_preference_rows(source, skip)):
        if k == 0:
            columns.check(placed.row, source)
        found.rows += 1
        try:
            add(columns.apply(placed.row))
        except RowError as error:
            if skip is None:
                fix = f"{error.fix} To leave such rows out: --on_bad_row skip"
                raise RowError(columns.renamed(error).what, where=placed.place, fix=fix) from error
            found.skipped += 1


def _add_row(found: Material, row: Mapping[str, Any], own_twins: bool) -> None:
    if _sides(row) is not None:
        _add_twins(found, row, True, pairs=own_twins)
        return
    if row.get("response") is not None and row.get("chosen") is None and row.get("responses") is None:
        prompt, response = parse_prompt_response(row)
        found.of_domain(prompt, response, _first(row, "writer", "model"))
        return
    if row.get("responses") is not None and row.get("ranks") is None and row.get("chosen") is None:
        several = row["responses"]
        writers = row.get("writers") or row.get("models") or [None] * len(several)
        for response, writer in zip(several, writers, strict=False):
            prompt, reply = parse_prompt_response({"prompt": row.get("prompt"), "response": response})
            found.of_domain(prompt, reply, None if writer is None else str(writer))
        return
    read = parse_preference_row(row)
    if row.get("chosen") is not None:
        names = [_first(row, f"{side}_writer", f"{side}_model") for side in ("chosen", "rejected")]
    else:
        given = row.get("writers") or row.get("models") or []
        names = [None if one is None else str(one) for one in given] + [None] * (len(read.responses) - len(given))
    places = [found.of_domain(read.prompt, reply, name) for reply, name in zip(read.responses, names, strict=False)]
    found.labelled += [(places[a], places[b]) for a, b in read.pairs]


def _first(row: Mapping[str, Any], *names: str) -> str | None:
    return next((str(row[name]) for name in names if row.get(name) is not None), None)


def _sides(row: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((s for s in _SIDES if row.get(s[0]) is not None and row.get(s[1]) is not None), None)


def _add_twins(found: Material, row: Mapping[str, Any], domain: bool, *, pairs: bool = True) -> None:
    sides = _sides(row)
    if sides is None:
        raise RowError("has no pair of responses", fix="Give shorter and longer, or original and edited.")
    texts = [parse_prompt_response({"prompt": row.get("prompt"), "response": row[side]}) for side in sides]
    add: Callable[[Prompt, Reply], int] = found.text
    if domain:

        def add(prompt: Prompt, reply: Reply) -> int:
            return found.of_domain(prompt, reply, None)

    first, second = (add(prompt, reply) for prompt, reply in texts)
    if pairs and first != second:
        found.pairs.append((first, second, str(row.get("edit") or "twins")))


def wanted_edits(config: CalibrateConfig) -> list[Edit]:
    """The edits of the attributes that are calibrated, or those that were asked for.

    Raises:
        ConfigError: there is none of that name, or none that changes an attribute.
    """
    known = {edit.name: edit for edit in EDITS}
    for name in config.edits:
        if name not in known:
            raise ConfigError(f"there is no edit '{name}'", where="--edits", fix=f"Use {', '.join(known)}.")
        if known[name].control:
            what = f"'{name}' is a control: it should lose, so it says nothing of a bias"
            raise ConfigError(what, where="--edits", fix="Leave it out.")
    if config.edits:
        return [known[name] for name in config.edits]
    attributes = config.attributes or [TOKENS]
    lengths = (TOKENS, "characters", "words")
    found = [
        edit
        for edit in EDITS
        if not edit.control
        and (edit.attribute in attributes or (edit.attribute == TOKENS and any(n in lengths for n in attributes)))
    ]
    if not found:
        fix = f"Name them with --edits ({', '.join(known)}), or give pairs with --twins."
        raise ConfigError(f"no edit changes {', '.join(attributes)}", where="--attributes", fix=fix)
    return found


def _add_edits(found: Material, edits: Sequence[Edit], most: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(found.domain))[:most]
    for k in sorted(order.tolist()):
        place = found.domain[k]
        for edit in edits:
            changed = edited_reply(found.responses[place], edit.apply)
            if changed is not None:
                found.pairs.append((place, found.text(found.prompts[place], changed), edit.name))
