"""The page on runs: what was read of them, its sections, and the file. Start at :func:`~odin_rm.reports.comparison.page`."""
