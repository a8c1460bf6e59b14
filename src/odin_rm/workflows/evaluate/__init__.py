"""Many policies against one baseline: responses, judgements and win rates of each, in one command."""
