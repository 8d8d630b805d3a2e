"""Students' training runs under a rule: unrolls, with a graph or without."""
