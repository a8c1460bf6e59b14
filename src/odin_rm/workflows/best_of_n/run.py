"""Best-of-N: what a reward chooses out of many responses, and what comes along with it.

The folder holds ``best_of_n.json`` (the curves), ``chosen.jsonl`` (for each prompt the best of its first N responses,
for the largest N: demonstrations for ``odin-rm sft``), ``pairs.jsonl`` (the best and the worst of them, for
``odin-rm dpo`` or ``reward``) and ``report.html``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.core.files import RowWriter, atomic_write_json
from odin_rm.data.columns import Columns
from odin_rm.data.rows import parse_prompt_response
from odin_rm.data.sources import iter_preference_rows
from odin_rm.evaluation.best_of_n import BestOfN, best_of_n, chosen_of_first, default_ns, excess_drift
from odin_rm.evaluation.prompt_sums import places_of_prompts
from odin_rm.evaluation.stored_scores import StoredScores, read_stored_scores
from odin_rm.runs.output_folder import check_output_folder, replaced_folder, writer_of
from odin_rm.workflows.best_of_n.config import BestOfNConfig


def run_best_of_n(config: BestOfNConfig) -> dict[str, Any]:
    """Compute the curves and write the folder.

    Returns:
        The content of ``best_of_n.json``.

    Raises:
        OdinError: rows that cannot be used, several models in the file, too few responses to a prompt.
    """
    # Everything before the output is touched.
    check_output_folder(config.output, "best-of-n", overwrite=config.overwrite_output)
    stored = _stored(config)
    ns = config.n or default_ns(np.bincount(stored.prompt))
    counts = np.bincount(stored.prompt)
    if max(ns) > counts.max():
        fix = f"The most is {counts.max()}; give smaller numbers, or more responses."
        raise ConfigError(f"no prompt has {max(ns)} responses", where="--n", fix=fix)
    gold = _gold(stored, counts >= max(ns))
    columns = {f"attribute.{name}": values for name, values in stored.attributes.items()}
    if gold is not None:
        columns["gold"] = gold
    found = best_of_n(
        stored.quality, stored.prompt, columns, ns, bootstrap_samples=config.bootstrap_samples, seed=config.seed
    )
    content = _content(config, stored, found, gold is not None)
    if gold is not None:
        options = {"bootstrap_samples": config.bootstrap_samples, "seed": config.seed}
        excess = excess_drift(stored.quality, gold, stored.prompt, stored.attributes, ns, **options)
        content["excess"] = {name: [one.to_json() for one in figures] for name, figures in excess.items()}
    from odin_rm.reports.best_of_n_page import best_of_n_report
    from odin_rm.reports.page import render_report, write_page

    html, files = render_report(best_of_n_report(stored, found, content))
    with writer_of(config.output), replaced_folder(config.output, "best-of-n") as folder:
        _write_chosen(folder, stored, max(ns), gold)
        write_page(folder, html, files)
        atomic_write_json(folder / "best_of_n.json", content)
    return content


def _stored(config: BestOfNConfig) -> StoredScores:
    columns = Columns(config.columns)
    if config.scores is not None:
        source: Any = config.scores
        found = read_stored_scores(source, attributes=config.attributes, columns=columns, on_bad_row=config.on_bad_row)
    else:
        rows, calibration = _scored_rows(config, columns)
        found = read_stored_scores(rows, attributes=config.attributes, on_bad_row=config.on_bad_row)
        if calibration is not None:
            found = [replace(one, report={**one.report, "calibration": calibration}) for one in found]
    if len(found) > 1:
        names = ", ".join(one.model for one in found[:5])
        fix = "Give the rows of one model; --columns model= leaves the column out."
        raise DataError(f"has scores of {len(found)} models ({names})", where=str(config.scores), fix=fix)
    return found[0]


def _scored_rows(config: BestOfNConfig, columns: Columns) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The rows of ``--input`` with the model's scores in them, and what calibrates these."""
    from odin_rm.workflows.model_scores import calibration_record, scorer_of, scores_of

    assert config.input is not None  # both checked by the config
    assert config.model is not None
    rows: list[dict[str, Any]] = []
    prompts: list[Any] = []
    responses: list[Any] = []
    for k, placed in enumerate(iter_preference_rows(config.input)):
        if k == 0:
            columns.check(placed.row, config.input)
        row = columns.apply(placed.row)
        row.pop("model", None)
        several = row["responses"] if isinstance(row.get("responses"), list) else [row.get("response")]
        try:
            parsed = [parse_prompt_response({"prompt": row.get("prompt"), "response": one}) for one in several]
        except RowError as error:
            if config.on_bad_row == "skip":
                continue
            raise RowError(columns.renamed(error).what, where=placed.place, fix=error.fix) from error
        rows.append({**row, "score": None, "parts": len(parsed)})
        prompts += [prompt for prompt, _ in parsed]
        responses += [response for _, response in parsed]
    scorer = scorer_of(config, config.model)
    quality_R, tokens_R = scores_of(scorer, prompts, responses, config)
    first = 0
    for row in rows:
        part = slice(first, first := first + row.pop("parts"))
        if isinstance(row.get("responses"), list):
            del row["score"]
            row |= {"scores": quality_R[part].tolist(), "response_tokens": tokens_R[part].tolist()}
        else:
            row |= {"score": float(quality_R[part][0]), "response_tokens": float(tokens_R[part][0])}
    return rows, calibration_record(scorer)


def _gold(stored: StoredScores, enough_P: np.ndarray) -> np.ndarray | None:
    """The second reward: ``gold`` of the rows, else ``label``, where every response of the prompts in use has it."""
    used = enough_P[stored.prompt]
    for column in (stored.gold, stored.label):
        if np.isfinite(column[used]).all():
            return np.where(np.isfinite(column), column, 0.0)
    return None


def _content(config: BestOfNConfig, stored: StoredScores, found: BestOfN, has_gold: bool) -> dict[str, Any]:
    names = list(stored.attributes)
    content: dict[str, Any] = {
        "model": stored.model if config.model is None else config.model,
        "dataset": config.scores or config.input,
        "prompts": found.prompts,
        "prompts_left_out": found.left_out,
        "n": found.n,
        "kl": found.kl,
        "proxy": found.values("proxy"),
        "gold": found.values("gold") if has_gold else None,
        "attributes": {name: found.values(f"attribute.{name}") for name in names},
        "intervals": {
            "proxy": found.intervals("proxy"),
            "gold": found.intervals("gold") if has_gold else None,
            "attributes": {name: found.intervals(f"attribute.{name}") for name in names},
        },
        "within_deviations": {
            "proxy": found.deviation["proxy"],
            "gold": found.deviation.get("gold"),
            "attributes": {name: found.deviation[f"attribute.{name}"] for name in names},
        },
        "units": {name: {"words": one.words, "unit": one.unit} for name, one in stored.described.items()},
        "bootstrap": {"samples": config.bootstrap_samples, "seed": config.seed, "resampled": "prompts"},
        "data_report": stored.report,
    }
    if not has_gold:
        content["why"] = {"gold": "not every response has 'gold' or 'label'"}
    return content


def _write_chosen(folder: Any, stored: StoredScores, n: int, gold: np.ndarray | None) -> None:
    """For each prompt with enough responses, the best of its first ``n``, and the pair of best and worst."""
    with RowWriter(folder / "chosen.jsonl") as chosen, RowWriter(folder / "pairs.jsonl") as pairs:
        for p, group in enumerate(places_of_prompts(stored.prompt)):
            if len(group) < n:
                continue
            best, worst = (int(group[k]) for k in chosen_of_first(stored.quality[group], n))
            head = _prompt_fields(stored, p)
            row = {**head, "response": stored.texts[best], "score": float(stored.quality[best]), "n": n}
            row["index"] = int(np.flatnonzero(group == best)[0])
            if gold is not None:
                row["gold"] = float(gold[best])
            chosen.write(row)
            if stored.texts[best] is not None and stored.quality[best] > stored.quality[worst]:
                margin = float(stored.quality[best] - stored.quality[worst])
                pairs.write(
                    {**head, "chosen": stored.texts[best], "rejected": stored.texts[worst], "score_margin": margin}
                )


def _prompt_fields(stored: StoredScores, p: int) -> Mapping[str, Any]:
    prompt = stored.prompts[p]
    fields: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
    if prompt is None or (isinstance(prompt, str) and stored.prompt_keys[p] != prompt):
        fields["prompt_id"] = stored.prompt_keys[p]
    return fields
