"""Files: rules, checkpoints, and what may be read of a file that nobody vouches for."""
