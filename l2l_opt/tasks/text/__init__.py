"""Character models."""

from l2l_opt.tasks.text import attention, gated_recurrent, recurrent, transformer

__all__ = ["attention", "gated_recurrent", "recurrent", "transformer"]
