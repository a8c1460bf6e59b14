"""Certifying a reward model: the figures of its files in, a verdict on every attribute out."""

from __future__ import annotations

from typing import Any

from odin_rm.core.files import atomic_write_json
from odin_rm.evaluation.certificate import STUDY, UNDECIDED, certify, overall
from odin_rm.runs.output_folder import check_output_folder, replaced_folder, writer_of
from odin_rm.workflows.certify.config import CertifyConfig
from odin_rm.workflows.certify.evidence import Evidence, read_evidence


def run_certify(config: CertifyConfig) -> dict[str, Any]:
    """Make the certificate and write the folder.

    Returns:
        The content of ``certificate.json``.

    Raises:
        OdinError: files that are no evidence, an output folder that holds something else.
    """
    check_output_folder(config.output, "certify", overwrite=config.overwrite_output)
    model = read_evidence(config.evidence, config.chosen)
    baseline = read_evidence(config.baseline, config.baseline_chosen) if config.baseline else None
    content = certificate_of(model, baseline, config.tolerance)
    from odin_rm.reports.certificate_page import certificate_report
    from odin_rm.reports.page import render_report, write_page

    html, files = render_report(certificate_report(content))
    with writer_of(config.output), replaced_folder(config.output, "certify") as folder:
        write_page(folder, html, files)
        atomic_write_json(folder / "certificate.json", content)
    return content


def certificate_of(model: Evidence, baseline: Evidence | None, tolerance: float) -> dict[str, Any]:
    """The content of ``certificate.json``.

    Args:
        model: what was measured of the model.
        baseline: of the model before the mitigation.
        tolerance: largest effect that counts as none.
    """
    before = None if baseline is None else baseline.measured()
    verdicts = certify(model.measured(), before, tolerance=tolerance)
    return {
        "model": model.name,
        "baseline": None if baseline is None else baseline.name,
        "overall": overall({name: one for name, one in verdicts.items() if one.verdict != UNDECIDED}),
        "tolerance": tolerance,
        "attributes": {name: {**model.described(name), **one.to_json()} for name, one in verdicts.items()},
        "error_rates": STUDY,
        "evidence": model.places,
        "baseline_evidence": None if baseline is None else baseline.places,
        "missing": _missing(model, baseline),
    }


def _missing(model: Evidence, baseline: Evidence | None) -> list[str]:
    """What the certificate could not look at, a sentence each."""
    found = []
    if "probe" not in model.found:
        found.append("There is no probe, so nothing is decided: give the folder of odin-rm probe.")
    if not model.chosen:
        found.append(
            "The responses that the model chooses were not probed (--chosen), so a bias that shows only there is "
            "not ruled out."
        )
    if baseline is None:
        found.append("There is no baseline, so nothing can be called mitigated, moved or overdone.")
    else:
        datasets = {one.found["probe"].get("dataset") for one in (model, baseline) if "probe" in one.found}
        if len(datasets) > 1:
            found.append("The two probes are of different data.")
        if "probe" not in baseline.found:
            found.append("The baseline has no probe, so it counts as none.")
    if "excess" not in model.found.get("best-of-n", {}):
        found.append("There is no best-of-N with gold or labels, so its drift is not looked at.")
    return found
