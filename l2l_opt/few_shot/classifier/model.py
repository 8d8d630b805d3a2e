"""A model made of a user's own examples, as a folder: it reads new rows or images and says what they are."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2l_opt.few_shot.classifier.ensemble import Ensemble, Settings
from l2l_opt.few_shot.classifier.image_folder import read_image_folder, read_images
from l2l_opt.few_shot.classifier.table import TableEncoder, read_table
from l2l_opt.storage.checkpoint_file import load_tree, save_tree
from l2l_opt.storage.safetensors_file import FileFormatError

FILE = "model.safetensors"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Pixels:
    """Images as inputs: square, each value less a half, times four.

    Attributes:
        side: pixels.
        colour: whether colours are kept.
    """

    side: int = 28
    colour: bool = True

    def encode(self, images: Tensor) -> Tensor:
        """Bytes ``[images, *shape]`` as floats of mean 0 and deviation 1 or so."""
        return 4 * (images.float() / 255 - 0.5)


@dataclass(frozen=True)
class Examples:
    """What a user has given.

    Attributes:
        inputs: ``[examples, *input_shape]``, encoded.
        targets: ``[examples]``.
        classes: names, by number.
        encoder: that made the inputs.
    """

    inputs: Tensor
    targets: Tensor
    classes: list[str]
    encoder: TableEncoder | Pixels


def read_examples(data: Path, *, label: str | None, pixels: Pixels) -> Examples:
    """Labelled rows of a CSV file, or a folder with a folder of images for each class.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: bad data, or a label's column missing or given for images.
    """
    if data.is_dir():
        if label is not None:
            raise ValueError(f"images are labelled by their folders; got --label {label!r}, leave it out")
        images = read_image_folder(data, side=pixels.side, colour=pixels.colour)
        return Examples(pixels.encode(images.images), images.labels, images.classes, pixels)
    if label is None:
        raise ValueError(f"a table needs the name of its label's column; got none for {str(data)!r}, use --label NAME")
    table = read_table(data, label=label)
    encoder = TableEncoder.fit(table.columns)
    return Examples(encoder.encode(table.columns), table.targets(), table.classes, encoder)


@dataclass(frozen=True)
class AdaptedModel:
    """Everything that predictions for new examples need.

    Attributes:
        encoder: of rows or images.
        classes: names, by number.
        ensemble: of students.
        about: plain values: which rule, which data.
    """

    encoder: TableEncoder | Pixels
    classes: list[str]
    ensemble: Ensemble
    about: dict[str, Any]

    def predict(self, data: Path) -> tuple[list[str], Tensor]:
        """Names of the examples (files, or numbers of rows) and probabilities ``[examples, classes]``.

        Raises:
            FileNotFoundError: nothing there.
            ValueError: rows where there should be images or the other way round, or bad data.
        """
        if isinstance(self.encoder, Pixels):
            images, files = read_images(data, side=self.encoder.side, colour=self.encoder.colour)
            return [str(file) for file in files], self.ensemble.probabilities(self.encoder.encode(images))
        if data.is_dir():
            raise ValueError(f"this model was made of rows of a table; got the folder {str(data)!r}, use a CSV file")
        table = read_table(data, label=None)
        inputs = self.encoder.encode(table.columns)
        return [str(row + 1) for row in range(table.num_rows)], self.ensemble.probabilities(inputs)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors`` into a folder, atomically.

        Raises:
            OSError: it cannot be written.
        """
        ensemble = self.ensemble
        tree = {
            "adapted_model": FORMAT_VERSION,
            "kind": "images" if isinstance(self.encoder, Pixels) else "table",
            "encoder": asdict(self.encoder),
            "classes": self.classes,
            "settings": asdict(ensemble.settings),
            "input_shape": list(ensemble.input_shape),
            "params": ensemble.params,
            "seen": ensemble.seen,
            "about": self.about,
        }
        save_tree(tree, Path(folder) / FILE)


def load_adapted_model(folder: str | os.PathLike[str]) -> AdaptedModel:
    """Read what ``AdaptedModel.save`` wrote. Nothing in the file is executed.

    Raises:
        FileNotFoundError: no model there.
        FileFormatError: another kind of file, or a damaged one.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"a model must lie in its folder as {FILE}; got {str(folder)!r}, make it with adapt")
    tree = load_tree(path)
    if not isinstance(tree, dict) or tree.get("adapted_model") != FORMAT_VERSION:
        raise FileFormatError(f"a model must be written by few-shot adapt, format {FORMAT_VERSION}; got {str(path)!r}")
    encoder = Pixels(**tree["encoder"]) if tree["kind"] == "images" else TableEncoder(**tree["encoder"])
    ensemble = Ensemble(
        Settings(**tree["settings"]),
        tuple(tree["input_shape"]),
        len(tree["classes"]),
        {name: torch.as_tensor(p) for name, p in tree["params"].items()},
        tree["seen"],
    )
    return AdaptedModel(encoder, tree["classes"], ensemble, tree["about"])
