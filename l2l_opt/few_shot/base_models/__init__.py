"""The base models of a stack: their outputs for an example, which ``few_shot.stacking`` learns to weigh."""
