"""Character models."""

from l2l_opt.tasks.text import attention, recurrent

__all__ = ["attention", "recurrent"]
