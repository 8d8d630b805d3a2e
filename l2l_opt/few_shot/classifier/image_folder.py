"""Images in one folder for each class, or in one folder alone."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


@dataclass(frozen=True)
class LabelledImages:
    """Images and the folders they lay in.

    Attributes:
        images: ``[images, side, side]`` or ``[images, 3, side, side]``, bytes.
        labels: ``[images]``, indices into ``classes``.
        classes: names of the folders, sorted.
        files: of each image.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    files: list[Path]


def read_image_folder(folder: str | os.PathLike[str], *, side: int = 28, colour: bool = False) -> LabelledImages:
    """Read ``FOLDER/CLASS/*.png`` (or .jpg, ...), made square.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class, a class without images, an image that cannot be read.
    """
    root = _existing(folder)
    classes = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(f"a folder of images must hold a folder for each class; got none in {str(root)!r}, make them")
    images: list[Tensor] = []
    labels: list[int] = []
    files: list[Path] = []
    for number, path in enumerate(classes):
        found = image_files(path)
        if not found:
            raise ValueError(f"every class must have images; got none in {str(path)!r}, add some or remove it")
        images += [read_image(file, side=side, colour=colour) for file in found]
        labels += [number] * len(found)
        files += found
    return LabelledImages(torch.stack(images), torch.tensor(labels), [path.name for path in classes], files)


def read_images(path: str | os.PathLike[str], *, side: int, colour: bool) -> tuple[Tensor, list[Path]]:
    """One image, or all images of a folder and the folders in it, without labels.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no image there, or one that cannot be read.
    """
    place = Path(path)
    files = [place] if place.is_file() else image_files(_existing(place), deep=True)
    if not files:
        raise ValueError(f"there must be images ({', '.join(sorted(SUFFIXES))}); got none in {str(place)!r}")
    return torch.stack([read_image(file, side=side, colour=colour) for file in files]), files


def image_files(folder: Path, *, deep: bool = False) -> list[Path]:
    """The images of a folder, sorted."""
    return sorted(
        path for path in folder.glob("**/*" if deep else "*") if path.suffix.lower() in SUFFIXES and path.is_file()
    )


def read_image(file: Path, *, side: int, colour: bool) -> Tensor:
    """``[side, side]``, or ``[3, side, side]`` in colour, bytes.

    Raises:
        ValueError: it cannot be read as an image.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            small = image.convert("RGB" if colour else "L").resize((side, side), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"every image must be readable; got {str(file)!r}: {error}, replace or remove it") from error
    pixels = torch.from_numpy(np.array(small))
    return pixels.permute(2, 0, 1).contiguous() if colour else pixels


def _existing(folder: str | os.PathLike[str]) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"a folder of images must exist; got {str(root)!r}, name another")
    return root
