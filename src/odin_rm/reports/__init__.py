"""Reports: figures and one self-contained HTML page. Start at :func:`odin_rm.reports.page.write_report`."""

from odin_rm.reports.audit_report import audit_headline, audit_sections, figures_table, write_audit_report
from odin_rm.reports.blocks import Percent, Table, Text
from odin_rm.reports.chart import Chart
from odin_rm.reports.page import write_report
from odin_rm.reports.sections import Charts, Section

__all__ = [
    "Chart",
    "Charts",
    "Percent",
    "Section",
    "Table",
    "Text",
    "audit_headline",
    "audit_sections",
    "figures_table",
    "write_audit_report",
    "write_report",
]
