"""Using a rule: ``LearnedOptimizer``, a torch.optim.Optimizer. Nothing here needs meta-training."""
