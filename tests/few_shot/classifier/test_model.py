"""The estimator: in scikit-learn, with data frames, arrays and images, and as a folder."""

import csv
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import l2l_opt
from l2l_opt import FewShotClassifier, load_rule
from l2l_opt.few_shot.classifier.image_folder import read_images
from l2l_opt.few_shot.classifier.model import FILE, load_few_shot_classifier
from l2l_opt.storage.safetensors_file import FileFormatError
from l2l_opt.tasks.tables.table import read_table

pytestmark = pytest.mark.slow

MODELS_OF_0_1 = Path(__file__).parent / "models_of_0_1"
SMALL = {"model": "mlp:hidden=8", "members": 2, "steps": 20}


# None of the checks is expected to fail; that of the array API is skipped where SCIPY_ARRAY_API is not set.
@parametrize_with_checks([FewShotClassifier(members=4)])
@pytest.mark.filterwarnings("ignore")
def test_it_is_a_classifier_of_scikit_learn(estimator, check):
    check(estimator)


def frame(count=40, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 2))
    shop = np.where(x[:, 1] > 0, "north", "south")
    y = np.where(x[:, 0] + (shop == "north") > 0.5, "fraud", "fine")
    return pandas.DataFrame({"x": x[:, 0], "noise": generator.normal(size=count), "shop": shop}), y


def test_it_is_exported_and_has_the_defaults_of_the_command():
    assert "FewShotClassifier" in l2l_opt.__all__
    assert FewShotClassifier().get_params() == {
        "rule": None, "model": None, "steps": 50, "members": None, "decay": 0.01, "hidden_inputs": 0.3,
        "columns": None, "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("as_text", [False, True])
def test_a_data_frame_with_words_is_learned(as_text):
    rows, y = frame()
    new, expected = frame(seed=1)
    if as_text:
        rows, new = rows.astype(str), new.astype(str)
    classifier = FewShotClassifier(members=4).fit(rows, y)
    assert classifier.classes_.tolist() == ["fine", "fraud"]
    assert classifier.encoder_.words == {"shop": ["north", "south"]}
    assert classifier.score(new, expected) > 0.8
    assert classifier.predict_proba(new).sum(1) == pytest.approx(1)
    with pytest.raises(ValueError, match="feature names should match"):
        classifier.predict(new[["shop", "x", "noise"]])
    assert classifier.columns_of(new[["shop", "x", "noise"]].assign(other=1)).equals(new)
    with pytest.raises(ValueError, match="got none named 'x'"):
        classifier.columns_of(new[["shop", "noise"]])


def test_text_and_numbers_are_the_same_table():
    rows, y = frame()
    first, again = (FewShotClassifier(**SMALL).fit(table, y).predict_proba(table) for table in (rows, rows.astype(str)))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("kind", ["category", "string", "object"])
def test_words_of_every_kind_of_pandas_column(kind):
    rows, y = frame()
    expected = FewShotClassifier(**SMALL).fit(rows, y).predict_proba(rows)
    found = FewShotClassifier(**SMALL).fit(rows.astype({"shop": kind}), y).predict_proba(rows.astype({"shop": kind}))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(6, 6), (3, 6, 6)])
def test_images_are_bytes(shape):
    y = np.arange(12) % 2
    images = (np.random.default_rng(0).integers(0, 60, (12, *shape)) + 150 * y.reshape(-1, *[1] * len(shape))).astype(
        np.uint8
    )
    classifier = FewShotClassifier(members=2).fit(images, y)
    assert classifier.settings().model == "mlp:hidden=64x64"
    assert classifier.score(images, y) == 1
    assert classifier.score(torch.from_numpy(images), y) == 1
    for wrong in (images / 255.0, images[..., :5]):
        with pytest.raises(ValueError, match="images must be bytes of shape"):
            classifier.predict(wrong)


def test_rules_by_name_by_object_and_by_default_are_one():
    rows, y = frame(20)
    every = [FewShotClassifier(rule, **SMALL).fit(rows, y) for rule in (None, "default-2", load_rule("default-2"))]
    for other in every[1:]:
        np.testing.assert_array_equal(other.predict_proba(rows), every[0].predict_proba(rows))
    assert clone(every[2]).fit(rows, y).score(rows, y) == every[2].score(rows, y)


def test_it_goes_where_scikit_learn_goes():
    x, y = load_wine(return_X_y=True)
    assert cross_val_score(FewShotClassifier(members=4, steps=30), x[::2], y[::2], cv=3).mean() > 0.9
    fitted = FewShotClassifier(**SMALL).fit(x, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(x), fitted.predict_proba(x))


def test_what_cannot_be_learned_is_refused():
    rows, y = frame()
    with pytest.raises(ValueError, match="at least two classes; got one class, 'a', add another"):
        FewShotClassifier(**SMALL).fit(rows, ["a"] * 40)
    with pytest.raises(ValueError, match="a class for every row; got 39 for 40 rows"):
        FewShotClassifier(**SMALL).fit(rows, y[1:])
    with pytest.raises(ValueError, match="kinds are of a DataFrame's columns"):
        FewShotClassifier(columns={"0": "words"}, **SMALL).fit(np.zeros((40, 2)), y)
    with pytest.raises(NotFittedError):
        FewShotClassifier().predict(rows)


@pytest.mark.parametrize("labels", [["fine", "fraud"], [0, 1], [0.0, 1.0], [False, True]])
def test_a_folder_holds_all_that_predictions_need(tmp_path, labels):
    rows, y = frame()
    classifier = FewShotClassifier(columns={"noise": "id"}, **SMALL).fit(
        rows, np.array(labels)[(y == "fraud").astype(int)]
    )
    classifier.save(tmp_path, {"rule": "default-2", "data": "x.csv"})
    again = load_few_shot_classifier(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(rows), classifier.predict_proba(rows))
    np.testing.assert_array_equal(again.predict(rows), classifier.predict(rows))
    assert again.encoder_.ids == ["noise"]
    assert again.predict(again.columns_of(rows[["shop", "x"]])).tolist() == classifier.predict(rows).tolist()


def predictions_of_0_1(kind):
    with open(MODELS_OF_0_1 / kind / "predictions.csv") as file:
        return list(csv.DictReader(file))


def check_predictions(classifier, inputs, expected):
    for row, own, name in zip(expected, classifier.predict_proba(inputs), classifier.predict(inputs), strict=True):
        assert row["prediction"] == str(name)
        assert [float(row[f"probability_{c}"]) for c in classifier.classes_] == pytest.approx(own.tolist(), abs=2e-6)


def test_a_table_s_model_of_0_1_predicts_the_same():
    """Its column of 1, 2.0 and 3+ knows 2.0 as it was written."""
    classifier = load_few_shot_classifier(MODELS_OF_0_1 / "table")
    assert classifier.encoder_.words["code"] == ["1", "2.0", "3+"]
    columns = read_table(MODELS_OF_0_1 / "table" / "new.csv", label=None).columns
    check_predictions(classifier, classifier.columns_of(columns), predictions_of_0_1("table"))


def test_an_image_model_of_0_1_predicts_the_same():
    classifier = load_few_shot_classifier(MODELS_OF_0_1 / "images")
    images, files = read_images(MODELS_OF_0_1 / "images" / "photos", side=6, colour=True)
    expected = predictions_of_0_1("images")
    assert [str(file.relative_to(MODELS_OF_0_1 / "images")) for file in files] == [row["file"] for row in expected]
    check_predictions(classifier, images, expected)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="a model must lie in its folder as model.safetensors"):
        load_few_shot_classifier(tmp_path)
    shutil.copy(MODELS_OF_0_1 / "table" / FILE, tmp_path / FILE)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[:-100])
    with warnings.catch_warnings(), pytest.raises(FileFormatError):
        load_few_shot_classifier(tmp_path)
