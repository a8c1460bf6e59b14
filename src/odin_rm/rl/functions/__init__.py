"""Our reward as a function for other people's trainers: TRL, ms-swift, OpenRLHF, verl."""
