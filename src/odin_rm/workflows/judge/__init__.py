"""Two sets of outputs under a judge, in both orders."""
