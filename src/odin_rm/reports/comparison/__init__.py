"""The page on runs: what was read of them, its parts, the file. Start at :mod:`odin_rm.reports.comparison.story`."""
