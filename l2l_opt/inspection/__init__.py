"""Looking inside: the only place that knows TensorBoard."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2l_opt.inspection.tensorboard.monitor import UnrollMonitor

__all__ = ["UnrollMonitor"]


def __getattr__(name: str) -> Any:
    if name == "UnrollMonitor":
        from l2l_opt.inspection.tensorboard.monitor import UnrollMonitor

        return UnrollMonitor
    raise AttributeError(f"module 'l2l_opt.inspection' has no attribute {name!r}")
