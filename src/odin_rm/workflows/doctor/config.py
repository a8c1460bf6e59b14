"""The settings of ``odin-rm doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from odin_rm.core.options import option


@dataclass
class DoctorConfig:
    """Everything that ``odin-rm doctor`` takes."""

    json: bool = option(False, "Print JSON.")
