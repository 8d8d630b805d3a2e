"""A classifier of a user's own few examples, as scikit-learn wants them, and as a folder."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from l2l_opt.few_shot.classifier.ensemble import Ensemble, Settings, adapt_ensemble
from l2l_opt.rules import UpdateRule
from l2l_opt.storage.checkpoint_file import load_tree, save_tree
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.storage.safetensors_file import FileFormatError
from l2l_opt.tasks.tables.encoder import TableEncoder

if TYPE_CHECKING:
    from pandas import DataFrame

RULE = "default-2"
OF_TABLES = Settings()
OF_IMAGES = Settings(model="mlp:hidden=64x64", members=8)
FILE = "model.safetensors"
FORMAT_VERSIONS = (2, 1)
"""What is written, and what is read too: 1 is of 0.1, whose columns of numbers are all in the plain notation."""


@dataclass(frozen=True)
class Pixels:
    """Images as inputs: square, each value less a half, times four.

    Attributes:
        side: pixels.
        colour: whether colours are kept.
        whites: what was white in deep pictures of each kind, of those that the model was made of.
    """

    side: int = 28
    colour: bool = True
    whites: dict[str, float] = field(default_factory=dict[str, float])

    def encode(self, images: Tensor) -> Tensor:
        """Bytes ``[images, *shape]`` as floats of mean 0 and deviation 1 or so.

        Raises:
            ValueError: another shape, or no bytes.
        """
        shape = (3, self.side, self.side) if self.colour else (self.side, self.side)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape:
            raise ValueError(
                f"images must be bytes of shape {list(shape)}; got {images.dtype} of {list(images.shape[1:])}, "
                "use read_images"
            )
        return 4 * (images.float() / 255 - 0.5)


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Classify rows or images of which only 10 to 100 are labelled, in scikit-learn or alone.

    An ensemble of small fresh students is trained by an update rule; of what is known elsewhere nothing else transfers.

        >>> from sklearn.datasets import load_iris
        >>> rows, kinds = load_iris(return_X_y=True)
        >>> FewShotClassifier(members=4).fit(rows[::5], kinds[::5]).score(rows, kinds) > 0.9
        True

    Inputs are an array ``[rows, columns]`` in which NaN is a missing value, a pandas DataFrame whose columns may hold
    words too, or images as bytes, ``[images, side, side]`` or ``[images, 3, side, side]``.

    Args:
        rule: the update rule: a shipped name, an artefact's path or a rule; None is default-2.
        model: of each student, ``name:option=value,...`` of ``few_shot.models``; None is mlp:hidden=32x32 of rows and
            mlp:hidden=64x64 of images.
        steps: updates.
        members: students; None is 16 of rows and 8 of images.
        decay: of squared weights in the loss.
        hidden_inputs: the share of a row's inputs that each student never sees, so that students differ.
        columns: a DataFrame's column -> numbers, words, id or ignore, where it shall not be decided by its cells.
        seed: of everything random.

    Attributes:
        classes_: in the order of probabilities.
        encoder_: how rows or images become inputs.
        ensemble_: the students.
    """

    encoder_: TableEncoder | Pixels
    feature_names_in_: np.ndarray

    def __init__(
        self,
        rule: UpdateRule | str | os.PathLike[str] | None = None,
        *,
        model: str | None = None,
        steps: int = OF_TABLES.steps,
        members: int | None = None,
        decay: float = OF_TABLES.decay,
        hidden_inputs: float = OF_TABLES.hidden_inputs,
        columns: Mapping[str, str] | None = None,
        seed: int = 0,
    ):
        self.rule = rule
        self.model = model
        self.steps = steps
        self.members = members
        self.decay = decay
        self.hidden_inputs = hidden_inputs
        self.columns = columns
        self.seed = seed

    def fit(self, X: Any, y: Any) -> "FewShotClassifier":
        """Train students on the examples.

        Args:
            X: array, DataFrame or images.
            y: a class for each.

        Raises:
            ValueError: examples of one class alone, or data that cannot be read.
        """
        self.encoder_, X, y = self._learn_encoder(X, y)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            only = self.classes_.tolist()[0]
            raise ValueError(f"there must be examples of at least two classes; got one class, {only!r}, add another")
        self.ensemble_ = adapt_ensemble(
            self.update_rule(),
            self.encoder_.encode(X),
            torch.from_numpy(targets),
            num_classes=len(self.classes_),
            settings=self.settings(),
        )
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Of each class, in the order of ``classes_``: ``[examples, classes]``."""
        inputs = self.encode(X)
        return self.ensemble_.probabilities(inputs).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest class of each example."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def encode(self, X: Any) -> Tensor:
        """Return inputs of the students, for examples like those it was fitted with.

        Raises:
            ValueError: examples of another kind.
        """
        check_is_fitted(self, "encoder_")
        if isinstance(self.encoder_, Pixels):
            return self.encoder_.encode(torch.as_tensor(X))
        if _is_frame(X):
            validate_data(self, X, reset=False, skip_check_array=True)
            return self.encoder_.encode(X.rename(columns=str))
        return self.encoder_.encode(_named(validate_data(self, X, **_OF_ARRAYS, reset=False)))

    def update_rule(self) -> UpdateRule:
        """Return the update rule of the students."""
        return self.rule if isinstance(self.rule, UpdateRule) else load_rule(RULE if self.rule is None else self.rule)

    def settings(self) -> Settings:
        """Of the ensemble, with what was left to the kind of examples."""
        usual = OF_IMAGES if isinstance(self.encoder_, Pixels) else OF_TABLES
        model, members = self.model or usual.model, self.members or usual.members
        return Settings(model, self.steps, members, self.decay, self.hidden_inputs, self.seed)

    def _learn_encoder(self, X: Any, y: Any) -> tuple[TableEncoder | Pixels, Any, np.ndarray]:
        if _is_frame(X):
            validate_data(self, X, skip_check_array=True)
            y = column_or_1d(y, warn=True)
            if len(X) != len(y):
                raise ValueError(f"there must be a class for every row; got {len(y)} for {len(X)} rows, add or remove")
            X = X.rename(columns=str)
            return TableEncoder.fit(X, self.columns), X, y
        if self.columns:
            raise ValueError(
                f"kinds are of a DataFrame's columns; got columns={self.columns} and no DataFrame, use one"
            )
        if getattr(X, "ndim", 2) > 2:
            self.n_features_in_ = int(np.prod(X.shape[1:]))
            return Pixels(X.shape[-1], X.ndim == 4), torch.as_tensor(X), column_or_1d(y)
        X, y = validate_data(self, X, y, **_OF_ARRAYS, ensure_min_samples=2)
        X = _named(X)
        return TableEncoder.fit(X, dict.fromkeys(X.columns, "numbers")), X, y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        tags.input_tags.string = False
        return tags

    def columns_of(self, table: "DataFrame") -> "DataFrame":
        """Return a table's columns as when fitted; those that make no inputs may be absent, others are dropped.

        Raises:
            ValueError: a column is missing.
        """
        assert isinstance(self.encoder_, TableEncoder)
        self.encoder_.check_columns(table)
        return table.reindex(columns=list(self.feature_names_in_), fill_value="")

    def save(self, folder: str | os.PathLike[str], about: Mapping[str, str]) -> None:
        """Write ``model.safetensors`` into a folder, atomically.

        Args:
            folder: that is there.
            about: what else is known: which rule, which data.

        Raises:
            OSError: it cannot be written.
        """
        ensemble = self.ensemble_
        tree = {
            "adapted_model": FORMAT_VERSIONS[0],
            "kind": "images" if isinstance(self.encoder_, Pixels) else "table",
            "encoder": asdict(self.encoder_),
            "columns": getattr(self, "feature_names_in_", np.array([])).tolist(),
            "classes": self.classes_.tolist(),
            "settings": asdict(ensemble.settings),
            "input_shape": list(ensemble.input_shape),
            "params": ensemble.params,
            "seen": ensemble.seen,
            "about": dict(about),
        }
        save_tree(tree, Path(folder) / FILE)


def load_few_shot_classifier(folder: str | os.PathLike[str]) -> FewShotClassifier:
    """Read what ``FewShotClassifier.save`` wrote, models of 0.1 too. Nothing in the file is executed.

    Raises:
        FileNotFoundError: no model there.
        FileFormatError: another kind of file, or a damaged one.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"a model must lie in its folder as {FILE}; got {str(folder)!r}, make it with adapt")
    tree = load_tree(path)
    if not isinstance(tree, dict) or tree.get("adapted_model") not in FORMAT_VERSIONS:
        raise FileFormatError(
            f"a model must be written by few-shot adapt, format {FORMAT_VERSIONS[0]} or older; got {str(path)!r}, "
            "run adapt again"
        )
    settings = Settings(**tree["settings"])
    classifier = FewShotClassifier(tree["about"].get("rule"), **asdict(settings))
    # Before whites were kept, integers had this one.
    of_images = {"whites": {"I": 65535.0}} if tree["kind"] == "images" else {}
    classifier.encoder_ = (Pixels if of_images else TableEncoder)(**of_images | tree["encoder"])
    classifier.classes_ = np.array(tree["classes"])
    shape = tuple(tree["input_shape"])
    classifier.n_features_in_ = int(np.prod(shape))
    if isinstance(classifier.encoder_, TableEncoder):
        classifier.feature_names_in_ = np.array(tree.get("columns") or classifier.encoder_.columns, dtype=object)
        classifier.n_features_in_ = len(classifier.feature_names_in_)
    params = {name: torch.as_tensor(p) for name, p in tree["params"].items()}
    classifier.ensemble_ = Ensemble(settings, shape, len(tree["classes"]), params, tree["seen"])
    return classifier


def _is_frame(X: Any) -> bool:
    return hasattr(X, "iloc") and hasattr(X, "columns")


_OF_ARRAYS: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": "allow-nan"}


def _named(rows: Any) -> "DataFrame":
    import pandas

    return pandas.DataFrame(rows, columns=[str(place) for place in range(rows.shape[1])])
