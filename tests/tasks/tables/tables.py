"""A table in a file, and its encoder with what it noted."""

import warnings

import pandas

from l2l_opt.tasks.tables.encoder import TableEncoder

CSV = "amount,kind,age,fraud\n1.5,a,30,no\n2,b,40,yes\n-3e2,a,50,no\n"


def write(path, text):
    path.write_text(text)
    return path


def fitted(rows, **roles):
    """The encoder of columns of text, and what it noted."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = TableEncoder.fit(pandas.DataFrame(rows), roles)
    return encoder, " ".join(str(note.message) for note in caught)
