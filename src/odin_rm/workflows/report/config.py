"""The settings of ``odin-rm report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option


@dataclass
class ReportConfig:
    """Everything that ``odin-rm report`` takes."""

    runs: list[str] = option(help="Run folders, audits, win rates, fronts, judgements, sweeps, files of responses.")
    output: str = option(help="Page to write (.html); figures and tables go into a folder of its name.")
    names: list[str] = option([], "What to call them, one name for each path; default their own names.")
    title: str = option("", "Title of the page.")
    samples: int = option(8, "Prompts whose answers are shown side by side; 0 for none.", at_least=0)
    overwrite_output: bool = option(False, "Replace an existing page and its folder.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        if not self.runs:
            raise ConfigError("names nothing", where="--runs", fix="Give run folders or results.")
        if self.names and len(self.names) != len(self.runs):
            what = f"gives {len(self.names)} names for {len(self.runs)} paths"
            raise ConfigError(what, where="--names", fix="Give one name for each path of --runs.")
        check_options(self)
        if Path(self.output).suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"'{self.output}' is no page", where="--output", fix="Give a name that ends in .html.")
