"""l2l-opt few-shot adapt and predict: a model of one's own examples."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from l2l_opt.cli.common import plugin_option, read_rule, wrong_usage
from l2l_opt.few_shot.classifier.cross_validation import check_examples, cross_validate
from l2l_opt.few_shot.classifier.ensemble import Settings, adapt_ensemble
from l2l_opt.few_shot.classifier.model import FILE, AdaptedModel, Pixels, load_adapted_model, read_examples
from l2l_opt.storage.files import make_writable_folder, write_atomically
from l2l_opt.version import __version__

OF_TABLES = Settings()
OF_IMAGES = Settings(model="mlp:hidden=64x64", members=8)
MANY = 1000
"""Examples for which a student trained by minibatches is the better choice."""


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="A CSV file, or a folder of images by class."
)
@click.option("--label", default=None, show_default="none", help="The CSV file's column of classes.")
@click.option("--positive", default=None, show_default="the rarer", help="Of two classes the one to be found.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the model, made anew.")
@click.option("--rule", default="default-2", show_default=True, help="The teacher: a shipped name, or an artefact.")
@click.option(
    "--model",
    default=None,
    show_default=f"{OF_TABLES.model} of rows, {OF_IMAGES.model} of images",
    help="Each student.",
)
@click.option("--steps", type=click.IntRange(min=1), default=OF_TABLES.steps, show_default=True, help="Updates.")
@click.option(
    "--members",
    type=click.IntRange(min=1),
    default=None,
    show_default=f"{OF_TABLES.members} of rows, {OF_IMAGES.members} of images",
    help="Students whose predictions are averaged.",
)
@click.option(
    "--decay", type=click.FloatRange(min=0), default=OF_TABLES.decay, show_default=True, help="Of squared weights."
)
@click.option(
    "--hidden-inputs",
    type=click.FloatRange(min=0, max=0.95),
    default=OF_TABLES.hidden_inputs,
    show_default=True,
    help="Share of a row's inputs that each student never sees.",
)
@click.option("--side", type=click.IntRange(min=4), default=28, show_default=True, help="Pixels that images are made.")
@click.option("--colour/--grey", default=True, show_default=True, help="Whether images keep their colours.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of torch.")
@click.option("--json", "as_json", is_flag=True, default=False, show_default="off", help="Print report.json.")
@plugin_option
def adapt(
    data: Path,
    label: str | None,
    positive: str | None,
    out: Path,
    rule: str,
    model: str | None,
    steps: int,
    members: int | None,
    decay: float,
    hidden_inputs: float,
    side: int,
    colour: bool,
    seed: int,
    threads: int,
    as_json: bool,
) -> None:
    """Make a model of 10 to 100 labelled rows or images, and say how good it is.

    Fresh students are taught by a shipped rule; nothing is fetched. PR-AUC, ROC-AUC and calibration error come from
    cross-validation, beside logistic regression and gradient boosting of scikit-learn on the same folds. Writes
    model.safetensors and report.json under --out, for `l2l-opt few-shot predict`.

    Example: l2l-opt few-shot adapt --data my.csv --label is_fraud --out model
    """
    torch.set_num_threads(threads)
    if (out / FILE).exists():
        raise click.UsageError(
            f"--out must not hold a model already; got {str(out)!r}, use another folder or remove it"
        )
    with wrong_usage():
        teacher = read_rule(rule, seed=seed)
        examples = read_examples(data, label=label, pixels=Pixels(side, colour))
        check_examples(examples.targets, examples.classes)
        found = _positive(examples.classes, examples.targets, positive)
    usual = OF_IMAGES if isinstance(examples.encoder, Pixels) else OF_TABLES
    with wrong_usage():
        settings = Settings(model or usual.model, steps, members or usual.members, decay, hidden_inputs, seed)
        own: dict[str, Any] = {"num_classes": len(examples.classes), "settings": settings}
        results = cross_validate(teacher, examples.inputs, examples.targets, positive=found, **own)
    ensemble = adapt_ensemble(teacher, examples.inputs, examples.targets, **own)
    counts = torch.bincount(examples.targets, minlength=len(examples.classes)).tolist()
    report = {
        "data": str(data),
        "examples": dict(zip(examples.classes, counts, strict=True)),
        "positive": None if found is None else examples.classes[found],
        "rule": rule,
        "transferred": "the rule alone; students start from fresh weights",
        "cross_validation": results,
        "version": __version__,
    }
    make_writable_folder(out)
    AdaptedModel(examples.encoder, examples.classes, ensemble, {"rule": rule, "data": str(data)}).save(out)
    content = json.dumps(report, indent=2) + "\n"
    write_atomically(out / "report.json", content.encode())
    if as_json:
        click.echo(content, nl=False)
        return
    _print(report)
    click.echo(f"model: {out}")


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


def _print(report: dict[str, Any]) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in report["examples"].items())
    click.echo(f"{counts}; of what is known elsewhere the rule {report['rule']} transfers, no weights do")
    if sum(report["examples"].values()) > MANY:
        click.echo(f"more than {MANY} examples: a model trained by LearnedOptimizer on batches may be better")
    wanted = report["positive"]
    table = Table(title="cross-validated" + ("" if wanted is None else f", to find {wanted!r}"))
    for heading in ("", "PR-AUC", "95 % interval", "ROC-AUC", "calibration error"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, own in report["cross_validation"].items():
        low, high = own["pr_auc_interval"]
        cells = [f"{own['pr_auc']:.3f}", f"{low:.3f} to {high:.3f}"]
        table.add_row(name, *cells, f"{own['roc_auc']:.3f}", f"{own['calibration_error']:.3f}")
    Console(width=None if Console().is_terminal else 110).print(table)


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Folder that adapt wrote.")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="A CSV file, an image or a folder of them."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV file of predictions.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of torch.")
@plugin_option
def predict(model: Path, data: Path, out: Path, threads: int) -> None:
    """Say what new rows or images are.

    Writes a CSV file: the row's number or the image's file, the likeliest class, and the probability of each class.

    Example: l2l-opt few-shot predict --model model --data new.csv --out predictions.csv
    """
    torch.set_num_threads(threads)
    adapted = load_adapted_model(model)
    with wrong_usage():
        names, probabilities = adapted.predict(data)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    kind = "file" if isinstance(adapted.encoder, Pixels) else "row"
    writer.writerow([kind, "prediction", *(f"probability_{name}" for name in adapted.classes)])
    for name, row in zip(names, probabilities, strict=True):
        writer.writerow([name, adapted.classes[int(row.argmax())], *(f"{p:.6f}" for p in row.tolist())])
    make_writable_folder(out.parent)
    write_atomically(out, text.getvalue().encode())
    click.echo(f"{len(names)} predictions: {out}")
