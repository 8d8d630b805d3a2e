"""The base models of a stack: what each says of an example, ``few_shot.stacking`` learns to weigh."""
