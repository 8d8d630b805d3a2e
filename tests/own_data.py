"""Files as users have them, for tasks that are made of such: a table and texts in which there is something to learn."""

import csv

import numpy as np


def write_rows(path, *, count=120, label="kind"):
    """A CSV file of numbers, a word, and three columns to learn: ``price``, ``kind`` and ``rooms``."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(count, 3))
    town = random.integers(3, size=count)
    price = 50 + 20 * inputs @ [1, -1, 0.5] + 10 * town
    columns = {
        **{f"x{place}": inputs[:, place].round(3).tolist() for place in range(3)},
        "town": [["north", "south", "east"][place] for place in town],
        "price": price.round(2).tolist(),
        label: ["dear" if own > 60 else "cheap" for own in price],
        "rooms": (2 + (inputs[:, 0] > 0) + (inputs[:, 1] > 0)).astype(int).tolist(),
    }
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    return path


def write_texts(folder, *, count=4):
    """A folder of files of a sentence over and over, one of them a folder below."""
    (folder / "more").mkdir(parents=True)
    for number in range(count):
        place = folder / "more" if number % 2 else folder
        (place / f"{number}.txt").write_text(f"{number}: The cat sat on the mat, and so did the dog. " * 20)
    return folder


def options_of_own_data(folder):
    """Options of the tasks that need data of a user's own, by name, with data written into a folder."""
    texts = str(write_texts(folder / "texts"))
    return {
        "table-mlp": {"data": str(write_rows(folder / "rows.csv")), "target": "kind", "ignore": "price"},
        "text-rnn": {"data": texts},
        "text-transformer": {"data": texts},
    }
