"""Damages CSV files and pictures at random, and gives them to `few-shot adapt` and `predict` in this process.

    python -m scripts.experiments.few_shot.fuzz_inputs --tables 2000 --images 500

Of every case it must hold that a command ends within seconds, with exit code 0 or with one sentence of an error that is
ours; that predictions are probabilities, the same for a row whatever other rows there are; and that a column whose
kind is no longer that of the undamaged file is named in a message. Writes results/few_shot/fuzz.json.
"""

import argparse
import collections
import contextlib
import csv
import io
import json
import random
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import l2l_opt
from l2l_opt.checks import DataNote
from l2l_opt.cli.main import main as l2l_opt_command
from l2l_opt.few_shot.classifier.model import FewShotClassifier, load_few_shot_classifier
from l2l_opt.tasks.tables.encoder import TableEncoder
from l2l_opt.tasks.tables.table import read_table

SLOWEST = 30.0
"""Seconds of this process that a case may take."""
SMALL = ["--members", "1", "--steps", "2", "--model", "mlp:hidden=4", "--budget", "1e-3"]
CELLS = [
    *(
        "",
        "NA",
        "?",
        "-",
        "inf",
        "nan",
        "1e999",
        "-1e308",
        "1e-320",
        "1,5",
        "1.234,5",
        "$5",
        "7%",
        "02",
        "3+",
        "2.0",
        "-0",
    ),
    *("'", '"', "a\nb", "\u00e9", "\u2212 4", "=1+1", "0x10", "1_000", "\u0663", "True", " ", "\ufeff", "x" * 5000),
]


def run(*arguments: Any) -> tuple[int, str]:
    """Exit code and standard error of the command line."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            l2l_opt_command([str(argument) for argument in arguments])
        except SystemExit as end:
            return int(end.code or 0), errors.getvalue()
    raise AssertionError("the command line must exit")


def check_ending(code: int, errors: str) -> str:
    """``refused`` or ``done``.

    Raises:
        AssertionError: an error of several lines, or one that is not ours.
    """
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert code in (0, 1, 2), f"exit code {code}"
    assert len(lines) == (code != 0), f"{len(lines)} errors with exit code {code}: {errors[-300:]}"
    assert "--debug" not in errors, lines
    assert "Traceback" not in errors, errors[-300:]
    return "refused" if code else "done"


def a_table(random_: random.Random) -> str:
    """Thirty rows with numbers, words, codes, an id and gaps, whose label the first column gives."""
    lines = ["size,price,shop,rooms,code,key,y"]
    for row in range(30):
        size = round(random_.gauss(5, 2), 2)
        shop, rooms, code = (
            random_.choice(own) for own in (["north", "south", ""], ["1", "2", "3+"], ["01", "12", "20"])
        )
        price = (
            random_.choice([f"{random_.uniform(1, 90):.1f}", "NA"]) if row % 9 == 0 else f"{random_.uniform(1, 90):.1f}"
        )
        lines.append(f"{size},{price},{shop},{rooms},{code},K{row:02},{'yes' if size > 5 else 'no'}")
    return "\n".join(lines) + "\n"


def change_cell(text: str, random_: random.Random) -> str:
    rows = list(csv.reader(io.StringIO(text)))
    row = random_.choice(rows[1:])
    row[random_.randrange(len(row))] = random_.choice(CELLS)
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def change_column(text: str, random_: random.Random) -> str:
    rows = list(csv.reader(io.StringIO(text)))
    place, cell = random_.randrange(len(rows[0])), random_.choice([None, *CELLS])
    for row in rows[1:]:
        row[place] = row[place].replace(".", ",") if cell is None else cell
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def change_line(text: str, random_: random.Random) -> str:
    lines = text.split("\n")
    place = random_.randrange(len(lines))
    replacement = random_.choice(
        [[], [""], [",,,,,,"], [lines[place]] * 2, [lines[place] + ",1"], [lines[place].rpartition(",")[0]], ["# note"]]
    )
    return "\n".join(lines[:place] + replacement + lines[place + 1 :])


def change_separators(text: str, random_: random.Random) -> str:
    return text.replace(",", random_.choice(";\t|: ")).replace("\n", random_.choice(["\n", "\r\n", "\r", "\n\n"]))


def change_text(change: Callable[[str, random.Random], str]) -> Callable[[bytes, random.Random], bytes]:
    def damage(content: bytes, random_: random.Random) -> bytes:
        encoding = random_.choice(["utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16"])
        return change(content.decode(), random_).encode(encoding, "replace")

    return damage


def change_bytes(content: bytes, random_: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random_.choice([1, 1, 3, 30])):
        place = random_.randrange(len(changed))
        changed[place : place + random_.choice([0, 1, 1, 9])] = random_.randbytes(random_.choice([0, 1, 1, 4]))
    return bytes(changed)


def cut(content: bytes, random_: random.Random) -> bytes:
    return content[: random_.randrange(len(content))]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bytes": change_bytes,
    "cut": cut,
    "cell": change_text(change_cell),
    "column": change_text(change_column),
    "line": change_text(change_line),
    "separators": change_text(change_separators),
}


def kinds(encoder: TableEncoder) -> dict[str, str]:
    """Column -> numbers or words."""
    return dict.fromkeys(encoder.numbers, "numbers") | dict.fromkeys(encoder.words, "words")


def check_rows(classifier: FewShotClassifier, file: Path) -> None:
    """Predictions are probabilities, and the first row's are the same alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataNote)
        rows = classifier.columns_of(read_table(file, label=None).columns)
        found = classifier.predict_proba(rows)
        alone = classifier.predict_proba(rows.iloc[:1])
    assert np.isfinite(found).all(), "predictions are not finite"
    assert np.allclose(found.sum(1), 1), "probabilities do not sum to 1"
    assert np.allclose(found[0], alone[0], atol=1e-6), "a row's prediction depends on other rows"


def table_case(folder: Path, random_: random.Random) -> tuple[str, str]:
    """One damaged table: what was done, and what became of adapt and predict."""
    content = a_table(random_).encode()
    damage = random_.choice(list(DAMAGES))
    (folder / "whole.csv").write_bytes(content)
    (folder / "damaged.csv").write_bytes(DAMAGES[damage](content, random_))
    outcomes = []
    code, errors = run(
        "few-shot", "adapt", "--data", folder / "whole.csv", "--label", "y", "--out", folder / "whole", *SMALL
    )
    assert code == 0, errors
    whole = load_few_shot_classifier(folder / "whole")
    code, errors = run(
        "few-shot", "adapt", "--data", folder / "damaged.csv", "--label", "y", "--out", folder / "m", *SMALL
    )
    outcomes.append(check_ending(code, errors))
    if code == 0:
        damaged = load_few_shot_classifier(folder / "m")
        before, after = kinds(whole.encoder_), kinds(damaged.encoder_)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataNote)
            cells = read_table(folder / "damaged.csv", label="y").columns
        for name in set(before) & set(cells.columns):
            # All of a column's cells may have become numbers, or words without a digit.
            kept = after.get(name) in (before[name], "numbers") or not cells[name].str[:1].str.isdigit().any()
            assert kept or repr(name) in errors, f"{name} is silently no longer {before[name]}"
        check_rows(damaged, folder / "damaged.csv")
    options = ["--data", folder / "damaged.csv", "--out", folder / "p.csv"]
    code, errors = run("few-shot", "predict", "--model", folder / "whole", *options)
    outcomes.append(check_ending(code, errors))
    if code == 0:
        check_rows(whole, folder / "damaged.csv")
    return damage, " then ".join(outcomes)


def a_picture(file: Path, random_: random.Random) -> None:
    """A small picture of a kind drawn at random, under a name that may be another kind's."""
    values = np.random.default_rng(random_.randrange(10**6)).integers(0, 255, (9, 11, 4), dtype=np.uint8)
    mode = random_.choice(["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "F", "CMYK"])
    if mode in ("I;16", "F"):
        image = Image.fromarray(values[..., 0].astype(np.uint16 if mode == "I;16" else np.float32) * 3)
    else:
        image = Image.fromarray(values, "RGBA").convert("RGB" if mode in ("P", "1", "CMYK") else mode).convert(mode)
    formats = (
        ["TIFF"]
        if mode in ("F", "CMYK")
        else ["PNG", "TIFF"]
        if mode == "I;16"
        else ["PNG", "TIFF", "GIF", "BMP", "JPEG"]
    )
    if mode in ("RGBA", "LA", "P"):
        formats = ["PNG", "TIFF", "WEBP"] if mode == "RGBA" else ["PNG"]
    image.save(file, format=random_.choice(formats))


def image_case(folder: Path, random_: random.Random) -> tuple[str, str]:
    """One damaged picture among four."""
    damage = random_.choice(["bytes", "cut", "nothing but its name"])
    for name in ("a", "b"):
        for number in range(2):
            file = folder / "data" / name / f"{number}{random_.choice(['.png', '.tif', '.jpg'])}"
            file.parent.mkdir(parents=True, exist_ok=True)
            a_picture(file, random_)
    if damage in DAMAGES:
        file.write_bytes(DAMAGES[damage](file.read_bytes(), random_))
    options = ["--out", folder / "m", "--side", "6", *SMALL]
    code, errors = run("few-shot", "adapt", "--data", folder / "data", *options)
    outcomes = [check_ending(code, errors)]
    if code:
        assert damage in DAMAGES, errors
        assert "every image must be readable" in errors, errors
        file.unlink()
        a_picture(file, random_)
        code, errors = run("few-shot", "adapt", "--data", folder / "data", *options)
        assert code == 0, errors
        file.write_bytes(cut(file.read_bytes(), random_))
    code, errors = run("few-shot", "predict", "--model", folder / "m", "--data", file, "--out", folder / "p.csv")
    return damage, " then ".join([*outcomes, check_ending(code, errors)])


def fuzz(case: Callable[[Path, random.Random], tuple[str, str]], count: int, seed: int) -> dict[str, Any]:
    """Outcomes by damage, failures, and the longest case in seconds of this process."""
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures, slowest = [], 0.0
    for number in range(count):
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            try:
                damage, outcome = case(Path(folder), random.Random(f"{seed} {number}"))
                outcomes[damage][outcome] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
                failures.append(f"case {number}: {type(error).__name__}: {str(error)[:500]}")
        seconds = time.process_time() - start
        slowest = max(slowest, seconds)
        if seconds > SLOWEST:
            failures.append(f"case {number}: took {seconds:.0f} s")
    return {"cases": count, "failures": failures, "slowest_seconds": round(slowest, 1), "outcomes": outcomes}


def main() -> None:
    """Fuzz and write; exit 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/few_shot/fuzz.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = {
        "command": shlex.join(["python", "-m", "scripts.experiments.few_shot.fuzz_inputs", *sys.argv[1:]]),
        "versions": {"l2l_opt": l2l_opt.__version__, "torch": torch.__version__},
        "limit_seconds": SLOWEST,
        "tables": fuzz(table_case, options.tables, options.seed),
        "images": fuzz(image_case, options.images, options.seed),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    failures = record["tables"]["failures"] + record["images"]["failures"]
    print(f"{options.tables} tables, {options.images} images, {len(failures)} failures", *failures, sep="\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
