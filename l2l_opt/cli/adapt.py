"""l2l-opt few-shot adapt and predict: a model of one's own examples."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from l2l_opt.checks import DataNote, nearest_first
from l2l_opt.cli.common import print_table, wrong_usage
from l2l_opt.cli.notes import notes_said
from l2l_opt.cli.options import JSON, SEED, GroupedCommand, count, cpu_options, option, option_group, path_option
from l2l_opt.few_shot.classifier.cross_validation import BUDGET, check_examples, cross_validate
from l2l_opt.few_shot.classifier.image_folder import read_image_folder, read_images
from l2l_opt.few_shot.classifier.model import (
    FILE,
    OF_IMAGES,
    OF_TABLES,
    RULE,
    FewShotClassifier,
    Pixels,
    load_few_shot_classifier,
)
from l2l_opt.storage.files import make_writable_folder, write_atomically
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.tasks.tables.table import read_table
from l2l_opt.version import __version__

MANY = 1000
"""Examples for which a student trained by minibatches is the better choice."""
LINE_SECONDS = 5.0
"""Between lines of progress, where there is no terminal."""
ROLES = ("ignore", "id", "numbers", "words")
OF_CLASSIFIER = ("model", "steps", "members", "decay", "hidden_inputs", "seed")


def columns(name: str, text: str, *, default: str = "none") -> Callable[..., Any]:
    """Declare a repeatable option that names columns."""
    return option(f"--{name}", None, f"{text}; repeatable.", multiple=True, metavar="COLUMN", show_default=default)


@click.command(cls=GroupedCommand)
@option_group(
    "Data",
    path_option("--data", None, "CSV file, or folder of images by class.", required=True),
    option("--label", None, "The CSV file's column of classes.", show_default="none"),
    columns("ignore", "Leave this column out"),
    columns("id", "Leave this column out, and copy it to predictions"),
    columns("numbers", "Read this column as numbers"),
    columns("words", "Read this column as words"),
    option("--positive", None, "Of two classes the one to be found.", show_default="the rarer"),
    count("--side", 28, "Pixels a side that images are scaled to.", least=4),
    option("--colour/--grey", True, "Whether images keep their colours."),
)
@option_group(
    "Student",
    option("--rule", RULE, "Rule that trains them: a shipped name or an artefact."),
    option("--model", None, "Each student.", show_default=f"{OF_TABLES.model} of rows, {OF_IMAGES.model} of images"),
    count("--steps", OF_TABLES.steps, "Updates of each."),
    count(
        "--members",
        None,
        "Students whose predictions are averaged.",
        show_default=f"{OF_TABLES.members} of rows, {OF_IMAGES.members} of images",
    ),
    option("--decay", OF_TABLES.decay, "Weight of the penalty on squared weights.", type=click.FloatRange(min=0)),
    option(
        "--hidden-inputs",
        OF_TABLES.hidden_inputs,
        "Share of a row's inputs that each student never sees.",
        type=click.FloatRange(min=0, max=0.95),
    ),
    SEED,
)
@option_group(
    "Output",
    path_option("--out", None, "Folder of the model, which must not hold one.", required=True),
    option("--budget", BUDGET, "Seconds of cross-validation, roughly.", type=click.FloatRange(min=0, min_open=True)),
    JSON,
)
@cpu_options
def adapt(data: Path, label: str | None, out: Path, rule: str, **options: Any) -> None:
    """Make a model of 10 to 100 labelled rows or images, and say how good it is.

    Fresh students are trained by a shipped rule; nothing is fetched. PR-AUC, ROC-AUC and calibration error come from
    cross-validation, beside logistic regression and gradient boosting of scikit-learn on the same folds. Writes
    model.safetensors and report.json under --out, for `l2l-opt few-shot predict`.

    Example: l2l-opt few-shot adapt --data my.csv --label is_fraud --out model
    """
    torch.set_num_threads(options["threads"])
    if (out / FILE).exists():
        raise click.UsageError(
            f"--out must not hold a model already; got {str(out)!r}, use another folder or remove it"
        )
    roles = {name: role for role in ROLES for name in options[role]}
    with notes_said() as notes, wrong_usage():
        loaded = read_rule(rule, seed=options["seed"])
        pixels = Pixels(options["side"], options["colour"])
        inputs, labels, whites = _read_examples(data, label=label, roles=roles, pixels=pixels)
        classes, targets = np.unique(labels, return_inverse=True)
        names, targets = [str(name) for name in classes], torch.from_numpy(targets)
        check_examples(targets, names)
        found = _positive(names, targets, options["positive"])
        if len(targets) > MANY:
            advice = f"more than {MANY} examples: a model trained by LearnedOptimizer on batches may be better"
            warnings.warn(advice, DataNote, stacklevel=1)
        own = {key: options[key] for key in OF_CLASSIFIER}
        classifier = FewShotClassifier(loaded, columns=roles, **own).fit(inputs, labels)
        if isinstance(classifier.encoder_, Pixels):
            classifier.encoder_ = replace(classifier.encoder_, whites=whites)
        results = cross_validate(
            loaded,
            classifier.encode(inputs),
            targets,
            num_classes=len(names),
            positive=found,
            settings=classifier.settings(),
            budget=options["budget"],
            watch=_progress,
        )
    report = {
        "data": str(data),
        "examples": dict(zip(names, torch.bincount(targets).tolist(), strict=True)),
        "positive": None if found is None else names[found],
        "rule": rule,
        "transferred": "the rule alone; students start from fresh weights",
        "notes": notes,
        "cross_validation": results,
        "version": __version__,
    }
    make_writable_folder(out)
    classifier.save(out, {"rule": rule, "data": str(data)})
    _write_report(report, out, as_json=options["as_json"])


def _read_examples(
    data: Path, *, label: str | None, roles: dict[str, str], pixels: Pixels
) -> tuple[Any, np.ndarray, dict[str, float]]:
    """Rows of a CSV file, or images of a folder with a folder for each class, and the class of each; images' whites."""
    if data.is_dir():
        if label is not None or roles:
            given = "label" if label is not None else next(iter(roles.values()))
            raise ValueError(f"images are labelled by their folders and have no columns; got --{given}, leave it out")
        images = read_image_folder(data, side=pixels.side, colour=pixels.colour)
        return images.images, np.array(images.classes)[images.labels], images.whites
    if label is None and not data.exists():
        raise FileNotFoundError(f"a CSV file or a folder of images must exist; got {str(data)!r}, name another")
    if label is None:
        raise ValueError(f"a table needs the name of its label's column; got none for {str(data)!r}, use --label NAME")
    table = read_table(data, label=label)
    return table.columns, table.labels, {}


def _progress(parts: list[Any]) -> Iterator[Any]:
    """Show a bar; where there is no terminal, a line now and then."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(parts, "cross-validation", console=console, transient=True)
        return
    began = said = time.monotonic()
    for number, part in enumerate(parts):
        now = time.monotonic()
        if now - said >= LINE_SECONDS:
            said = now
            click.echo(f"cross-validation: {number} of {len(parts)} parts, {now - began:.0f} s", err=True)
        yield part


def _positive(classes: list[str], targets: torch.Tensor, wanted: str | None) -> int | None:
    if wanted is not None and (wanted not in classes or len(classes) != 2):
        raise ValueError(
            f"--positive must be one of two classes; got {wanted!r} of {', '.join(classes)}, "
            f"{'use one of them' if len(classes) == 2 else 'leave it out'}"
        )
    if len(classes) != 2:
        return None
    if wanted is not None:
        return classes.index(wanted)
    return int(torch.bincount(targets, minlength=2).argmin()) if targets.sum() * 2 != len(targets) else 1


def _write_report(report: dict[str, Any], out: Path, *, as_json: bool) -> None:
    content = json.dumps(report, indent=2) + "\n"
    write_atomically(out / "report.json", content.encode())
    if as_json:
        click.echo(content, nl=False)
        return
    _print(report)
    click.echo(f"model: {out}")


def _print(report: dict[str, Any]) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in report["examples"].items())
    click.echo(f"{counts}; of what is known elsewhere the rule {report['rule']} transfers, no weights do")
    wanted = report["positive"]
    rows = []
    for name, own in report["cross_validation"].items():
        low, high = own["pr_auc_interval"]
        cells = [f"{own['pr_auc']:.3f}", f"{low:.3f} to {high:.3f}"]
        rows.append([name, *cells, f"{own['roc_auc']:.3f}", f"{own['calibration_error']:.3f}"])
    title = "cross-validated" + ("" if wanted is None else f", to find {wanted!r}")
    print_table(title, ("", "PR-AUC", "95 % interval", "ROC-AUC", "calibration error"), rows)


@click.command(cls=GroupedCommand)
@option_group(
    "Data",
    path_option("--model", None, "Folder that adapt wrote.", required=True),
    path_option("--data", None, "CSV file, image or folder of images.", required=True),
    columns("id", "Copy this column to the predictions", default="ids that adapt found"),
    path_option("--out", None, "CSV file of predictions.", required=True),
)
@cpu_options
def predict(model: Path, data: Path, out: Path, threads: int, **options: Any) -> None:
    """Say what new rows or images are.

    Writes a CSV file: the row's number or the image's file, the row's ids, the likeliest class, and the probability of
    each class.

    Example: l2l-opt few-shot predict --model model --data new.csv --out predictions.csv
    """
    import pandas

    torch.set_num_threads(threads)
    classifier = load_few_shot_classifier(model)
    with notes_said(), wrong_usage():
        inputs, names = _read_new(classifier, data, options["id"])
        probabilities = classifier.predict_proba(inputs)
    classes = classifier.classes_.astype(str)
    names["prediction"] = classes[probabilities.argmax(1)]
    for place, name in enumerate(classes):
        names[f"probability_{name}"] = probabilities[:, place]
    make_writable_folder(out.parent)
    write_atomically(out, pandas.DataFrame(names).to_csv(index=False, float_format="%.6f").encode())
    click.echo(f"{len(inputs)} predictions: {out}")


def _read_new(classifier: FewShotClassifier, data: Path, ids: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """Examples without labels, and the columns of the predictions that name them."""
    encoder = classifier.encoder_
    if isinstance(encoder, Pixels):
        if ids:
            raise ValueError(f"images have no columns; got --id {ids[0]!r}, leave it out")
        images, files = read_images(data, side=encoder.side, colour=encoder.colour, whites=encoder.whites)
        return images, {"file": list(map(str, files))}
    if data.is_dir():
        raise ValueError(f"this model was made of rows of a table; got the folder {str(data)!r}, use a CSV file")
    columns = read_table(data, label=None).columns
    for name in ids:
        if name not in columns:
            names = ", ".join(nearest_first(name, columns))
            raise ValueError(f"--id must be a column of the table; got {name!r}, use one of {names}")
    named = {name: columns[name].tolist() for name in ids or encoder.ids if name in columns}
    return classifier.columns_of(columns), {"row": range(1, len(columns) + 1), **named}
