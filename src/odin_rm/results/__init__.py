"""The one reader of what runs leave on disk: run folders, audits, judgements, win rates, sweeps, the arm's name."""
