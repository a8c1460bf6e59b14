"""Best-of-N by a reward, exactly."""
