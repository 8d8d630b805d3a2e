"""Evaluating optimizers: tuned baselines, one way for all, intervals, plots."""
