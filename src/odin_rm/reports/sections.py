"""The titled sections that a page is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from odin_rm.reports.blocks import Samples, Table, Text
from odin_rm.reports.chart import Chart


@dataclass(frozen=True)
class Charts:
    """Figures side by side where there is room."""

    charts: Sequence[Chart]
    kind = "charts"


Block = Text | Table | Charts | Samples


@dataclass(frozen=True)
class Section:
    """A titled part of the page.

    Attributes:
        title: its heading, also in the page's table of contents.
        blocks: what it holds, in order.
    """

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """The heading's id in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"
