"""Images in one folder for each class, or in one folder alone."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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

RANGES = {"I": (255, 1023, 4095, 16383, 65535), "F": (1, 255, 1023, 4095, 16383, 65535)}
"""Of deep grey pictures, integers and floats: what may be white, since 12 bits of a camera are often kept in 16."""

Whites = Mapping[str, float]
"""What is white in deep pictures of a kind: I for integers, F for floats."""


@dataclass(frozen=True)
class LabelledImages:
    """Images and the folders they lay in.

    Attributes:
        images: ``[images, side, side]`` or ``[images, 3, side, side]``, bytes.
        labels: ``[images]``, indices into ``classes``.
        classes: names of the folders, sorted.
        files: of each image.
        whites: what is white in the deep pictures among them, for ``read_images`` to read others alike.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    files: list[Path]
    whites: dict[str, float] = field(default_factory=dict[str, float])


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
    labels: list[int] = []
    files: list[Path] = []
    for number, path in enumerate(classes):
        own = [file for file in found if path in file.parents]
        if not own:
            raise ValueError(f"every class must have images; got none in {str(path)!r}, add some or remove it")
        labels += [number] * len(own)
        files += own
    whites = find_whites(files)
    images = torch.stack([read_image(file, side=side, colour=colour, whites=whites) for file in files])
    return LabelledImages(images, torch.tensor(labels), [path.name for path in classes], files, whites)


def read_images(
    path: str | os.PathLike[str], *, side: int, colour: bool, whites: Whites | None = None
) -> tuple[Tensor, list[Path]]:
    """One image, or all images of a folder and the folders in it, without labels.

    Args:
        path: of the image or the folder.
        side: pixels.
        colour: whether colours are kept.
        whites: what is white in deep pictures of each kind; of kinds that are not among them, what these files show.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no image there, or one that cannot be read.
    """
    place = Path(path)
    files = [place] if place.is_file() else _images(_existing(place))
    if not files:
        raise ValueError(f"there must be images ({', '.join(sorted(suffixes()))}); got none in {str(place)!r}")
    known = dict(whites or {})
    found = find_whites(files, known)
    return torch.stack([read_image(file, side=side, colour=colour, whites=found) for file in files]), files


def find_whites(files: Sequence[Path], known: Whites | None = None) -> dict[str, float]:
    """Find what is white in deep pictures of each kind: the least of the usual ranges that holds them all.

    Args:
        files: pictures.
        known: whites that were found before, which stay; what is brighter is named.

    Raises:
        ValueError: a picture that cannot be read, or has pixels that are not finite.
    """
    highest: dict[str, float] = {}
    whites, brighter = dict(known or {}), list[Path]()
    for file in files:
        with _opened(file) as image:
            kind = image.mode[0]
            if kind in RANGES:
                own = float(_values(image, file).max())
                highest[kind] = max(highest.get(kind, 0.0), own)
                brighter += [file] * (own > whites.get(kind, own))
    if brighter:
        _note_files(brighter, f"pictures brighter than what was white where the model was made: {len(brighter)}")
    for kind, own in highest.items():
        if kind not in whites:
            whites[kind] = next((float(white) for white in RANGES[kind] if own <= white), own)
            if whites[kind] in (1023, 4095, 16383):
                deep = f"deep pictures have pixels of up to {own:g}, and {whites[kind]:g} is taken as white"
                warnings.warn(deep, DataNote, stacklevel=3)
    return whites


@cache
def suffixes() -> frozenset[str]:
    """Of every format that Pillow decodes, in small letters."""
    from PIL import Image

    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in Image.OPEN and kind not in _NOT_PICTURES)


def read_image(file: Path, *, side: int, colour: bool, whites: Whites | None = None) -> Tensor:
    """``[side, side]``, or ``[3, side, side]`` in colour, bytes: upright by its EXIF tag, what is clear made white.

    Args:
        file: the picture.
        side: pixels.
        colour: whether colours are kept.
        whites: what is white in deep pictures of each kind; where None, what this one shows.

    Raises:
        ValueError: it cannot be read as an image, or has pixels that are not finite.
    """
    from PIL import Image, ImageOps

    whites = find_whites([file]) if whites is None else whites
    with _opened(file) as image:
        upright = ImageOps.exif_transpose(image)
        if image.mode[0] in RANGES:
            parts = _values(upright, file) / whites[image.mode[0]]
            upright = Image.fromarray((255 * parts.clip(0, 1)).round().astype(np.uint8))
        if upright.has_transparency_data:
            clear = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        small = upright.convert("RGB" if colour else "L").resize((side, side), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small))
    return pixels.permute(2, 0, 1).contiguous() if colour else pixels


class _NotFiniteError(ValueError):
    pass


@contextlib.contextmanager
def _opened(file: Path) -> Iterator["Image"]:
    """Open a picture and do something with it.

    Raises:
        ValueError: that fails.
    """
    from PIL import Image

    suffixes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=[kind for kind in Image.ID if kind not in _NOT_PICTURES]) as image:
                yield image
    except _NotFiniteError:
        raise
    # Of a damaged file Pillow raises whatever its decoders stumble on.
    except Exception as error:
        raise ValueError(f"every image must be readable; got {str(file)!r}: {error}, replace or remove it") from error


def _values(image: "Image", file: Path) -> np.ndarray:
    """Return a deep picture's pixels as numbers; those below zero are black."""
    values = np.array(image).astype(np.float64)
    if not np.isfinite(values).all():
        gaps = int((~np.isfinite(values)).sum())
        raise _NotFiniteError(
            f"every pixel must be a finite number; got NaN or infinity in {gaps} of {values.size} of {str(file)!r}, "
            "fill them in or remove it"
        )
    return values.clip(0)


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
        _note_files(files, f"files left out: {len(files)}, {why}")


def _note_files(files: list[Path], what: str) -> None:
    names = ", ".join(str(file) for file in files[:5]) + (" and others" if len(files) > 5 else "")
    warnings.warn(f"{what}: {names}", DataNote, stacklevel=4)


def _existing(folder: str | os.PathLike[str]) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"a folder of images must exist; got {str(root)!r}, name another")
    return root
