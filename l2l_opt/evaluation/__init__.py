"""Judging optimizers: tuned baselines, one protocol for all, intervals, plots."""
