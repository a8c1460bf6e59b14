"""What ``odin-rm export`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from odin_rm.core.options import check_options, option
from odin_rm.core.shared_options import RowOptions

if TYPE_CHECKING:
    pass

# A folder with one of these is more than an export and is never replaced by one.


@dataclass
class ExportConfig(RowOptions):
    """Everything that ``odin-rm export`` takes."""

    model: str = option(help="Reward model saved by odin-rm: its folder, its run folder, or a hub id.")
    output: str = option(help="Folder to write the stock classifier to.")
    certificate: str | None = option(None, "A certificate.json of odin-rm certify, to be a section of the model card.")
    parity_dataset: str | None = option(None, "Preference data to compare scores on too, beside the built-in texts.")
    parity_rows: int = option(64, "How many responses of the parity data to compare on.", at_least=1)
    tolerance: float | None = option(
        None, "Largest difference of scores; default 1e-5 (2e-2 in half precision) of the largest score.", above=0
    )
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", "Precision of the exported weights.")
    read_at: str | None = option(
        None, "end or before_pad: where a model of an earlier odin-rm that does not say it was read."
    )
    device: str | None = option(None, "cpu, cuda, cuda:1, ...; default CUDA if there is one.")
    trust_remote_code: bool = option(False, "Run code that comes with the model.")
    overwrite_output_dir: bool = option(False, "Replace an earlier export in the folder.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        check_options(self)
