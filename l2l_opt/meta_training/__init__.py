"""Learning a rule: meta-gradients, outer steps, runs."""
