"""What a meta-training run has written to TensorBoard, read back."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Series = tuple[np.ndarray, np.ndarray]
"""Steps and values."""


def read_scalars(folder: Path) -> Mapping[str, Series]:
    """All scalars of one folder of events, not of those below it: tag -> steps and values, every point.

    Args:
        folder: of event files; empty where there are none.
    """
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    series = {}
    for tag in accumulator.Tags()["scalars"]:
        events = accumulator.Scalars(tag)
        series[tag] = (np.array([event.step for event in events]), np.array([event.value for event in events]))
    return series
