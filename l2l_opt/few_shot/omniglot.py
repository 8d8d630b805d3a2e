"""Omniglot: 1,623 hand-written characters of 50 alphabets, 20 drawings each, found on the user's disk."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2l_opt.tasks.images.datasets import DATA_VARIABLE, cache_folder, candidate_folders

FILE = "omniglot28.npz"
PARTS = ("images_background", "images_evaluation")
SIDE = 28


@dataclass(frozen=True)
class Omniglot:
    """Drawings by character.

    Attributes:
        images: ``[characters, 20, 28, 28]``, bytes, ink is 255.
        background: ``[characters]``, whether a character is of the authors' background set.
    """

    images: Tensor
    background: Tensor


@lru_cache(2)
def load_omniglot(root: str | os.PathLike[str] | None = None) -> Omniglot:
    """Omniglot from ``omniglot28.npz`` (x, split) or from torchvision's folders of PNG files, made 28 x 28.

    Looks in ``root`` alone where it is given, or else in ``$L2L_OPT_DATA``, then the user's cache folder; in each for
    the files themselves and under ``omniglot``.

    Args:
        root: the folder to look in.

    Raises:
        FileNotFoundError: nothing found; the message names every place and how to get the files.
        ValueError: a file that is not of the kind in its name.

    Source: Lake, Salakhutdinov and Tenenbaum, Science 350, 2015 (MIT licence).
    """
    places = [Path(os.environ[DATA_VARIABLE])] if root is None and os.environ.get(DATA_VARIABLE) else []
    last = [cache_folder()] if root is None else []
    folders = [*places, *candidate_folders("omniglot", root), *last]
    for folder in folders:
        if (folder / FILE).is_file():
            return _read_npz(folder / FILE)
        for inner in (folder, folder / "omniglot-py"):
            if all((inner / part).is_dir() for part in PARTS):
                return _read_folders(inner)
    raise FileNotFoundError(
        f"Omniglot must lie on this machine ({FILE}, or torchvision's folders {' and '.join(PARTS)}); "
        f"looked in {', '.join(map(str, folders))}: fetch it with torchvision.datasets.Omniglot or from its authors, "
        f"and name its folder by root= or ${DATA_VARIABLE}"
    )


def _read_npz(path: Path) -> Omniglot:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, split = arrays["x"], arrays["split"]
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{FILE} must hold arrays x and split; got {path}: {error}, replace it") from error
    if images.ndim != 4 or images.shape[2:] != (SIDE, SIDE) or images.dtype != np.uint8 or len(split) != len(images):
        raise ValueError(
            f"{FILE} must hold bytes [characters, drawings, {SIDE}, {SIDE}] and a split for each character; got "
            f"{images.dtype} {images.shape} and {len(split)} in {path}, replace it"
        )
    return Omniglot(torch.from_numpy(images), torch.from_numpy(split == PARTS[0]))


def _read_folders(folder: Path) -> Omniglot:
    from PIL import Image

    images: list[np.ndarray] = []
    background: list[bool] = []
    for part in PARTS:
        for character in sorted((folder / part).glob("*/*")):
            drawings = []
            for file in sorted(character.glob("*.png")):
                with Image.open(file) as image:
                    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
                drawings.append(255 - np.asarray(small))
            images.append(np.stack(drawings) if drawings else np.zeros((0, SIDE, SIDE), np.uint8))
            background.append(part == PARTS[0])
    counts = {len(drawings) for drawings in images}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"every character of Omniglot must have as many drawings; got {sorted(counts)} in {folder}, unpack it anew"
        )
    return Omniglot(torch.from_numpy(np.stack(images)), torch.tensor(background))
