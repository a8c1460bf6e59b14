"""``odin-rm calibrate --fold``: the mean effect of edits or twins taken out of the head, written as a model."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.core.files import atomic_write_json
from odin_rm.core.progress import Progress
from odin_rm.evaluation.dial_rivals import Halves, rival_figures
from odin_rm.evaluation.nulling import mean_differences, nulled
from odin_rm.model.fold import features_of, head_of, prove_folded, save_folded
from odin_rm.runs.output_folder import check_output_folder, replaced_folder, writer_of
from odin_rm.workflows.calibrate.config import CalibrateConfig
from odin_rm.workflows.calibrate.rows import Material, read_material
from odin_rm.workflows.calibrate.texts import Texts, attributes_of, plain_scorer

FOLDED_FILE = "folded.json"
_PROVED = 64


def run_fold(config: CalibrateConfig) -> dict[str, dict[str, Any]]:
    """Fold and write the model.

    Returns:
        The content of ``folded.json`` by its path.

    Raises:
        OdinError: rows that cannot be used, a head that is not linear, scores that differ from the formula.
    """
    assert config.output is not None  # checked by the config
    check_output_folder(config.output, "calibrate", overwrite=config.overwrite_output)
    material = read_material(config)
    scorer = plain_scorer(config)
    weight_D = head_of(scorer)
    sequences, read, tokens, cut = _encoded(scorer, material)
    with Progress(f"features of {scorer.name}", len(sequences), unit="responses") as bar:
        found = features_of(scorer, sequences, microbatch_tokens=config.microbatch_tokens, progress=bar.advance)
    began = time.perf_counter()
    feature_TD, quality_T = np.zeros((len(read), len(weight_D))), np.full(len(read), np.nan)
    feature_TD[read], quality_T[read] = found
    texts = Texts(material, quality_T, tokens, cut, attributes_of(config))
    first, second, kind, left_out = texts.pair_places()
    if not len(first):
        fix = "Give --max_length room, or shorter responses."
        raise DataError("no pair is read whole: the model cannot see what the edits or twins change", fix=fix)
    directions_KD = mean_differences(feature_TD[first], feature_TD[second], kind)
    folded_D = nulled(weight_D, directions_KD)
    content = _content(config, texts, feature_TD, weight_D, folded_D)
    content["fitted_on"]["pairs_not_read_whole"] = left_out
    expected = found[1][:_PROVED] - found[0][:_PROVED] @ (weight_D - folded_D)
    with writer_of(config.output), replaced_folder(config.output, "calibrate") as folder:
        save_folded(scorer, folded_D, folder)
        parity = prove_folded(folder, sequences[:_PROVED], expected, scorer, microbatch_tokens=config.microbatch_tokens)
        content["parity"] = {"sequences": len(expected), "largest_difference": parity}
        content["seconds_after_scoring"] = time.perf_counter() - began
        atomic_write_json(folder / FOLDED_FILE, content)
    return {f"{config.output}/{FOLDED_FILE}": content}


def _encoded(scorer: Any, material: Material) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Sequences of the texts that fit, which these are, and tokens and cut of all."""
    from odin_rm.data.tokenise import encode_responses

    encoded = encode_responses(scorer.tokenizer, material.prompts, material.responses, scorer.settings)
    read = np.array([not one.dropped for one in encoded])
    sequences = [np.asarray(one.input_ids, dtype=np.int32) for one in encoded if not one.dropped]
    if not sequences:
        raise DataError("no response fits the model's window", fix="Give --max_length room.")
    tokens = np.array([one.response_tokens for one in encoded], dtype=np.float64)
    return sequences, read, tokens, np.array([one.response_cut > 0 for one in encoded])


def _content(
    config: CalibrateConfig, texts: Texts, feature_TD: np.ndarray, weight_D: np.ndarray, folded_D: np.ndarray
) -> dict[str, Any]:
    rows, pairs, counts = texts.material_of()
    assert pairs is not None
    first, second, kind, _ = texts.pair_places()
    domain = np.array(texts.material.domain)
    domain = domain[np.isfinite(texts.quality[domain])]
    prompts = np.unique(np.concatenate([rows.prompt, pairs.prompt]))
    half_P = np.zeros(int(prompts.max()) + 1, dtype=int)
    half_P[prompts] = np.random.default_rng(config.seed).permutation(len(prompts)) % 2
    taken_R, taken_first, taken_second = (np.zeros(len(one)) for one in (domain, first, second))
    for half in (0, 1):  # each half by the directions of the other
        learns = half_P[pairs.prompt] != half
        if not learns.any():
            continue
        other = mean_differences(feature_TD[first[learns]], feature_TD[second[learns]], kind[learns])
        lost_D = weight_D - nulled(weight_D, other)
        for taken, places, own in (
            (taken_R, domain, half_P[rows.prompt] == half),
            (taken_first, first, half_P[pairs.prompt] == half),
            (taken_second, second, half_P[pairs.prompt] == half),
        ):
            taken[own] = feature_TD[places[own]] @ lost_D
    halves = Halves(
        {"none": np.zeros(len(domain)), "fold": taken_R},
        {"none": np.zeros(len(first)), "fold": taken_first},
        {"none": np.zeros(len(first)), "fold": taken_second},
        (1.0, 1.0),
        {"none": np.zeros(len(domain)), "fold": feature_TD[domain] @ (weight_D - folded_D)},
    )
    methods = rival_figures(
        rows, texts.names, pairs, halves, bootstrap_samples=config.bootstrap_samples, seed=config.seed
    )
    lost = float(np.linalg.norm(weight_D - folded_D) / np.linalg.norm(weight_D))
    return {
        "anchor": config.anchor,
        "model": {"name": config.model},
        "kinds": sorted(set(kind.tolist())),
        "share_of_the_weight_taken_out": lost,
        "fitted_on": {"dataset": config.dataset, "twins": config.twins, **counts},
        "held_out": {"methods": methods},
        "bootstrap": {"samples": config.bootstrap_samples, "seed": config.seed, "resampled": "prompts"},
    }
