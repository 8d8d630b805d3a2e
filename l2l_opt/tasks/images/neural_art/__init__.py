"""Neural art, the original paper's fourth experiment: a picture is the student."""

from l2l_opt.tasks.images.neural_art import task

__all__ = ["task"]
