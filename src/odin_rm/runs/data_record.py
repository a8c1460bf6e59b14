"""What of its data a run uses: a line of its log for each data set, and ``data_report.json`` in its folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from odin_rm.core.ranks import is_main_process
from odin_rm.data.left_out import data_line

DATA_FILE = "data_report.json"
"""In a run folder: by use (``train``, ``eval``, ``prompts``, ``watch_prompts``), source and counts of the data set."""

log = logging.getLogger(__name__)
Records = dict[str, dict[str, Any]]


def data_record(report: Mapping[str, Any], source: str) -> dict[str, Any]:
    """An entry of ``data_report.json``."""
    return {"source": source, **report}


def data_lines(records: Records, *, noun: str = "pairs", limit: str = "max_length") -> list[str]:
    """One line for each data set; see :func:`odin_rm.data.left_out.data_line`."""
    return [
        f"{use.replace('_', ' ')} data: {data_line(record, record['source'], noun=noun, limit=limit)}"
        for use, record in records.items()
    ]


def say_data(records: Records, *, noun: str = "pairs", limit: str = "max_length") -> None:
    """The lines in the log, from the main process."""
    if is_main_process():
        for line in data_lines(records, noun=noun, limit=limit):
            log.info("%s", line)
