"""Looking inside: the only place that knows TensorBoard."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2l_opt.inspection.tensorboard.monitor import UnrollMonitor

__all__ = ["UnrollMonitor"]


def __getattr__(name: str) -> Any:
    # Lazily, since TensorBoard's server loads the tab from in here and is to start without torch.
    if name not in __all__:
        raise AttributeError(f"module 'l2l_opt.inspection' has no attribute {name!r}")
    return importlib.import_module("l2l_opt.inspection.tensorboard.monitor").UnrollMonitor
