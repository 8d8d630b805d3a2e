"""Pictures whose style is to be taken over: patterns that are computed, at any size."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Pattern = Callable[[np.ndarray, np.ndarray, np.random.RandomState], np.ndarray]


def swirls(x: np.ndarray, y: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Colour strokes that run around a few centres: night blues and yellows.

    Args:
        x: ``[side, side]``, from 0 to 1 from left to right.
        y: ``[side, side]``, from 0 to 1 downwards.
        random: of all that is drawn.

    Returns:
        ``[side, side, 3]``, colours in 0 to 1.
    """
    angle = np.zeros_like(x)
    for centre_x, centre_y, strength in random.uniform(size=(5, 3)) * (1, 1, 2) - (0, 0, 1):
        distance = np.hypot(x - centre_x, y - centre_y)
        angle += strength * 5 * np.exp(-6 * distance) + 0.6 * np.arctan2(y - centre_y, x - centre_x)
    along = np.sin(40 * (x * np.cos(angle) + y * np.sin(angle)))
    across = np.sin(17 * (y * np.cos(angle) - x * np.sin(angle)) + 2 * along)
    palette = np.array([[0.05, 0.1, 0.35], [0.15, 0.4, 0.7], [0.75, 0.85, 0.8], [0.95, 0.8, 0.25]])
    return _coloured((along + 0.7 * across + 1.7) / 3.4, palette)


def mosaic(x: np.ndarray, y: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Stones of warm colours with dark joints, the nearest of random points each.

    Args:
        x: ``[side, side]``, from 0 to 1 from left to right.
        y: ``[side, side]``, from 0 to 1 downwards.
        random: of all that is drawn.

    Returns:
        ``[side, side, 3]``, colours in 0 to 1.
    """
    points = random.uniform(-0.05, 1.05, size=(90, 2))
    palette = np.array([[0.8, 0.25, 0.15], [0.95, 0.7, 0.3], [0.3, 0.15, 0.2], [0.9, 0.9, 0.8], [0.2, 0.5, 0.45]])
    colours = palette[random.randint(len(palette), size=len(points))]
    distances = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1])
    nearest = np.sort(distances, axis=-1)
    joint = np.clip((nearest[..., 1] - nearest[..., 0]) / 0.015, 0, 1)[..., None]
    return colours[distances.argmin(-1)] * joint + 0.08 * (1 - joint)


def _coloured(height: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Heights from 0 to 1 in the colours of a palette, with what lies between."""
    places = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(height, places, own) for own in palette.T], -1)


STYLES: dict[str, Pattern] = {"swirls": swirls, "mosaic": mosaic}


@lru_cache(8)
def style_picture(name: str, side: int) -> Tensor:
    """A style's picture, ``[3, side, side]``, colours in 0 to 1; the same motif at every size."""
    axis = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(axis, axis)
    return torch.from_numpy(STYLES[name](x, y, np.random.RandomState(0))).permute(2, 0, 1)
