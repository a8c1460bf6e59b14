"""What ``odin-rm certify`` takes."""

from __future__ import annotations

from dataclasses import dataclass

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option


@dataclass
class CertifyConfig:
    """Everything that ``odin-rm certify`` takes."""

    evidence: list[str] = option(
        help="What was measured of the model: outputs of audit, probe and best-of-n, folders or their JSON files."
    )
    output: str = option(help="Folder for certificate.json and report.html.")
    chosen: str | None = option(
        None, "A probe of the responses that the model chooses: of best-of-n's chosen.jsonl (docs/certify.md)."
    )
    baseline: list[str] = option([], "The same outputs for the model before the mitigation.")
    baseline_chosen: str | None = option(None, "A probe of the responses that the baseline chooses.")
    tolerance: float = option(
        0.1, "Largest effect that counts as none, in deviations of the reward for a usual difference.", above=0
    )
    overwrite_output: bool = option(False, "Replace an earlier output folder.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        if not self.evidence:
            raise ConfigError("names no file", where="--evidence", fix="Give the folders of audit, probe, best-of-n.")
        if self.baseline_chosen is not None and not self.baseline:
            raise ConfigError("needs --baseline", where="--baseline_chosen", fix="Give the baseline's probe, too.")
        check_options(self)
