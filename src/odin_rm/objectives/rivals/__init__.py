"""Other groups' objectives against bias, each on the exact whole batch that its own code does not see."""
