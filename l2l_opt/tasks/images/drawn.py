"""Pictures drawn by formulas: shapes, textures, cells and strokes of a pen, each in its own task; held out."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from l2l_opt.tasks.examples import Examples

TURN = 2 * math.pi


class Pencil:
    """Random numbers for pictures of side x side whose corners lie at -1 and 1.

    Args:
        seed: of all of them.
        number: pictures.
        side: pixels.
    """

    def __init__(self, seed: int, number: int, side: int):
        self.generator, self.number = torch.Generator().manual_seed(seed), number
        axis = torch.linspace(-1, 1, side, dtype=torch.float64)
        self.rows, self.columns = torch.meshgrid(axis, axis, indexing="ij")

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """``[number, *shape, 1, 1]``, to be broadcast over pixels."""
        drawn = torch.rand(self.number, *shape, 1, 1, generator=self.generator, dtype=torch.float64)
        return low + (high - low) * drawn

    def noise(self) -> Tensor:
        """``[number, side, side]``, standard Gaussian."""
        return torch.randn(self.number, *self.rows.shape, generator=self.generator, dtype=torch.float64)

    def turned(self, *shape: int, spread: float) -> tuple[Tensor, Tensor]:
        """Coordinates about a random middle within ``spread`` of the picture's, turned by a random angle."""
        x, y = self.columns - self.uniform(-spread, spread, *shape), self.rows - self.uniform(-spread, spread, *shape)
        angle = self.uniform(0, TURN, *shape)
        return angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x


SHAPES = 8


@lru_cache(1)
def shape_pictures() -> Examples:
    """A bright or dark shape on a sloping ground, ``[pictures, 16, 16]``, and which of eight; 3,000 and 1,000 of them.

    Disc, ring, square, frame, triangle, cross, bar and two discs, shifted, turned, of any size, in noise.
    """
    number = 4000
    pencil = Pencil(1, number, 16)
    x, y = pencil.turned(spread=0.3)
    size, thin = pencil.uniform(0.35, 0.65), pencil.uniform(0.12, 0.2)
    radius, square = (x.square() + y.square()).sqrt(), torch.maximum(x.abs(), y.abs())
    corner = torch.maximum(-y, torch.maximum(0.87 * x + y / 2, -0.87 * x + y / 2))
    cross = torch.minimum(x.abs(), y.abs())
    # How far outside of its shape a pixel lies.
    outside = torch.stack(
        [
            radius - size,
            (radius - size).abs() - thin,
            square - 0.85 * size,
            (square - 0.85 * size).abs() - thin,
            corner - 0.6 * size,
            torch.maximum(cross - thin, square - size),
            torch.maximum(x.abs() - 1.2 * size, y.abs() - 1.3 * thin),
            (((x.abs() - 0.6 * size).square() + y.square()).sqrt()) - 0.45 * size,
        ],
        1,
    )
    classes = torch.arange(number) % SHAPES
    own = outside[torch.arange(number), classes]
    ground = pencil.uniform(-0.4, 0.4) * pencil.columns + pencil.uniform(-0.4, 0.4) * pencil.rows
    contrast = pencil.uniform(0.8, 1.5) * (pencil.uniform(-1, 1) > 0).double().mul(2).sub(1)
    pictures = ground + contrast * torch.sigmoid(-own / 0.06) + 0.35 * pencil.noise()
    return Examples(pictures, classes, {"train": (0, 3000), "test": (3000, number)})


TEXTURES = 6


@lru_cache(1)
def texture_pictures() -> Examples:
    """Sums of twelve waves in noise, ``[pictures, 16, 16]``, and which of six kinds; 3,000 and 1,000 of them.

    Kinds differ by the waves' direction (three, each spread) and by how long they are (two, spread as well).
    """
    number, waves = 4000, 12
    pencil = Pencil(2, number, 16)
    classes = torch.arange(number) % TEXTURES
    kind = classes.double()[:, None, None, None]
    direction = (kind % 3) * math.pi / 3 + 0.45 * (pencil.uniform(-1, 1, waves) + pencil.uniform(-1, 1, waves))
    length = torch.where(kind < 3, 4.0, 7.0) + 2 * pencil.uniform(-1, 1, waves)
    phase, strength = pencil.uniform(0, TURN, waves), pencil.uniform(0, 1, waves)
    along = direction.cos() * pencil.columns + direction.sin() * pencil.rows
    summed = (strength * torch.cos(length * along + phase)).sum(1)
    pictures = pencil.uniform(0.5, 1.2) * summed / 2 + 0.5 * pencil.noise()
    return Examples(pictures, classes, {"train": (0, 3000), "test": (3000, number)})


@lru_cache(1)
def cell_pictures() -> Examples:
    """Cells under a dim light, ``[pictures, 16, 16]``, and of every pixel: ground, within a cell, a cell's edge.

    Five ellipses a picture, which may touch and overlap; 1,200 and 400 pictures.
    """
    number, cells = 1600, 5
    pencil = Pencil(3, number, 16)
    x, y = pencil.turned(cells, spread=0.9)
    long, narrow = pencil.uniform(0.25, 0.5, cells), pencil.uniform(0.5, 1.0, cells)
    depth = ((x / long).square() + (y / (long * narrow)).square()).sqrt().min(1).values
    kinds = torch.where(depth < 0.7, 1, torch.where(depth < 1.1, 2, 0))
    light = pencil.uniform(0.4, 1) * (1 + 0.4 * pencil.uniform(-1, 1) * pencil.columns)
    pictures = light * torch.sigmoid((0.95 - depth) / 0.15) + 0.25 * pencil.noise()
    return Examples(pictures, kinds, {"train": (0, 1200), "test": (1200, number)})


@lru_cache(1)
def stroke_pictures() -> Examples:
    """Three strokes of a pen, bent lines of one thickness, ``[pictures, 400]`` (20 x 20), grey values in 0 to 1.

    Inputs and targets are the same; 3,000 and 1,000 pictures.
    """
    number, strokes, places = 4000, 3, 16
    pencil = Pencil(4, number, 20)
    time = torch.linspace(0, 1, places, dtype=torch.float64)[:, None, None]
    nearest = torch.full((number, 20, 20), math.inf, dtype=torch.float64)
    for _ in range(strokes):
        (ax, ay), (bx, by), (cx, cy) = ((pencil.uniform(-0.8, 0.8, 1), pencil.uniform(-0.8, 0.8, 1)) for _ in range(3))
        x = (1 - time) ** 2 * ax + 2 * time * (1 - time) * bx + time**2 * cx
        y = (1 - time) ** 2 * ay + 2 * time * (1 - time) * by + time**2 * cy
        for place in range(places):
            apart = (pencil.columns - x[:, place]).square() + (pencil.rows - y[:, place]).square()
            nearest = torch.minimum(nearest, apart)
    pictures = torch.sigmoid((0.12 - nearest.sqrt()) / 0.04).flatten(1)
    return Examples(pictures, pictures, {"train": (0, 3000), "test": (3000, number)})
