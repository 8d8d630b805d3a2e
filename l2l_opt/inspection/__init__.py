"""Looking inside: the only place that knows TensorBoard."""

from l2l_opt.inspection.tensorboard.monitor import UnrollMonitor

__all__ = ["UnrollMonitor"]
