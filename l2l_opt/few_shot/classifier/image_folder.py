"""Images in one folder for each class, or in one folder alone."""

import os
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from l2l_opt.checks import DataNote

if TYPE_CHECKING:
    from PIL.Image import Image

_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow knows without being able to decode them itself."""


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
    """Read all images in ``FOLDER/CLASS`` and the folders in it, made square; say what is left out.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class, a class without images, an image that cannot be read.
    """
    root = _existing(folder)
    classes = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(f"a folder of images must hold a folder for each class; got none in {str(root)!r}, make them")
    found = _images(root)
    _note_left_out([file for file in found if file.parent == root], "in the folder of no class")
    images: list[Tensor] = []
    labels: list[int] = []
    files: list[Path] = []
    for number, path in enumerate(classes):
        own = [file for file in found if path in file.parents]
        if not own:
            raise ValueError(f"every class must have images; got none in {str(path)!r}, add some or remove it")
        images += [read_image(file, side=side, colour=colour) for file in own]
        labels += [number] * len(own)
        files += own
    return LabelledImages(torch.stack(images), torch.tensor(labels), [path.name for path in classes], files)


def read_images(path: str | os.PathLike[str], *, side: int, colour: bool) -> tuple[Tensor, list[Path]]:
    """One image, or all images of a folder and the folders in it, without labels.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no image there, or one that cannot be read.
    """
    place = Path(path)
    files = [place] if place.is_file() else _images(_existing(place))
    if not files:
        raise ValueError(f"there must be images ({', '.join(sorted(suffixes()))}); got none in {str(place)!r}")
    return torch.stack([read_image(file, side=side, colour=colour) for file in files]), files


@cache
def suffixes() -> frozenset[str]:
    """Of every format that Pillow decodes, in small letters."""
    from PIL import Image

    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in Image.OPEN and kind not in _NOT_PICTURES)


def read_image(file: Path, *, side: int, colour: bool) -> Tensor:
    """``[side, side]``, or ``[3, side, side]`` in colour, bytes: upright by its EXIF tag, what is clear made white.

    Raises:
        ValueError: it cannot be read as an image.
    """
    from PIL import Image, ImageOps

    suffixes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=[kind for kind in Image.ID if kind not in _NOT_PICTURES]) as image:
                upright = _in_bytes(ImageOps.exif_transpose(image))
                if upright.has_transparency_data:
                    clear = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
                small = upright.convert("RGB" if colour else "L").resize((side, side), Image.Resampling.BILINEAR)
    # Of a damaged file Pillow raises whatever its decoders stumble on.
    except Exception as error:
        raise ValueError(f"every image must be readable; got {str(file)!r}: {error}, replace or remove it") from error
    pixels = torch.from_numpy(np.array(small))
    return pixels.permute(2, 0, 1).contiguous() if colour else pixels


def _in_bytes(image: "Image") -> "Image":
    """Deep grey pictures scaled to 0 to 255: by 65,535 if integers, by the first of 1, 255, 65,535 not below if floats.

    Larger ones still are scaled by the largest value.
    """
    from PIL import Image

    if image.mode[0] not in "IF":
        return image
    values = np.nan_to_num(np.array(image).astype(np.float64), posinf=0, neginf=0).clip(0)
    highest = values.max()
    white = next((w for w in ((65535,) if image.mode[0] == "I" else (1, 255, 65535)) if highest <= w), highest)
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))


def _images(folder: Path) -> list[Path]:
    """All images below a folder, sorted; other files are named."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    _note_left_out([file for file in files if file.suffix.lower() not in suffixes()], "no images by their names")
    return [file for file in files if file.suffix.lower() in suffixes()]


def _note_left_out(files: list[Path], why: str) -> None:
    if files:
        names = ", ".join(str(file) for file in files[:5]) + (" and others" if len(files) > 5 else "")
        warnings.warn(f"files left out: {len(files)}, {why}: {names}", DataNote, stacklevel=4)


def _existing(folder: str | os.PathLike[str]) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"a folder of images must exist; got {str(root)!r}, name another")
    return root
