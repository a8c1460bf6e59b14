"""Reports: figures and one self-contained HTML page. Start at :func:`odin_rm.reports.page.write_report`."""
