"""Students that act: policies and their environments."""

from l2l_opt.tasks.policies import cartpole, navigation, pendulum

__all__ = ["cartpole", "navigation", "pendulum"]
