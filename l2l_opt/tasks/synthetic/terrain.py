"""Heights of a landscape as a function of place; held out."""

from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from l2l_opt.checks import Positive
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.module_task import ModuleTask

ROWS, COLUMNS = 80, 96


@lru_cache(1)
def heights() -> Examples:
    """Places ``[80 * 96, 2]`` from -1 to 1 and heights ``[80 * 96, 1]`` of mean 0 and deviation 1.

    Raises:
        FileNotFoundError: matplotlib is installed without its sample data.

    Source: the Jacksboro fault in Tennessee, elevations by SRTM of the U.S. Geological Survey (public domain), as
    matplotlib ships them among its sample data.
    """
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data" / "jacksboro_fault_dem.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"terrain-field must find matplotlib's sample data on this machine; got no {path}, install matplotlib from "
            "PyPI (pip install matplotlib), whose packages have them"
        )
    with np.load(path, allow_pickle=False) as arrays:
        elevation = torch.from_numpy(arrays["elevation"].astype(np.float64))
    small = nn.functional.adaptive_avg_pool2d(elevation[None, None], (ROWS, COLUMNS)).flatten()
    axes = (torch.linspace(-1, 1, length, dtype=torch.float64) for length in (ROWS, COLUMNS))
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    return Examples.parted(places[order], ((small - small.mean()) / small.std())[order, None])


class Waves(nn.Module):
    """``[cos 2 pi B x, sin 2 pi B x]``, B drawn once: ``[batch, 2] -> [batch, 2 waves]``.

    Source: arXiv 2006.10739, section 5.
    """

    frequencies: Tensor

    def __init__(self, waves: int, deviation: float):
        super().__init__()
        drawn = torch.randn(2, waves, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.register_buffer("frequencies", 2 * torch.pi * deviation * drawn)

    def forward(self, places: Tensor) -> Tensor:
        phases = places @ self.frequencies
        return torch.cat([phases.cos(), phases.sin()], -1)


@register_module_task("terrain-field", batch_size=64)
def terrain_field(*, hidden: int = 48, waves: int = 24, deviation: Positive = 1.5) -> partial[ModuleTask]:
    """Coordinate network with random Fourier features that fits the heights of a real landscape, 80 x 96 places.

    Args:
        hidden: units of each of the two hidden layers, with GELU.
        waves: features, each a cosine and a sine.
        deviation: of their frequencies, in waves by half the map's side.

    Raises:
        ValueError: a size that is not a positive integer, a deviation that is not positive.
        FileNotFoundError: matplotlib's sample data are not on this machine.

    Source: arXiv 2006.10739.
    """
    module = nn.Sequential(
        Waves(waves, deviation),
        nn.Linear(2 * waves, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Linear(hidden, 1),
    )
    return partial(ModuleTask, module, nn.functional.mse_loss, heights())
