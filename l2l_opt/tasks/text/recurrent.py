"""Recurrent character models."""

from functools import partial
from typing import Annotated

from l2l_opt.checks import check_choices
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.data_files import DataPath
from l2l_opt.tasks.layers.recurrent import Recurrence
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.text.corpus import NOVEL, VERSE, own_text, shipped_text, text_task


@register_module_task("novel-rnn", batch_size=32)
def novel_rnn(
    *,
    hidden: int = 32,
    cell: Annotated[str, partial(check_choices, ("gru", "elman"))] = "gru",
    embedding: int = 16,
    length: int = 12,
) -> partial[ModuleTask]:
    """Recurrent character model (GRU or Elman) of a novel, Northanger Abbey.

    Args:
        hidden: units of the recurrent layer.
        cell: gru or elman.
        embedding: features of a character.
        length: characters read, and predicted, at a stretch.

    Raises:
        ValueError: a size that is not a positive integer, an unknown cell.
    """
    return text_task(shipped_text(NOVEL), length, embedding, Recurrence(cell, embedding, hidden), num_features=hidden)


@register_module_task("verse-lstm", batch_size=32)
def verse_lstm(*, hidden: int = 32, embedding: int = 16, length: int = 16) -> partial[ModuleTask]:
    """LSTM character model of the Psalms.

    Args:
        hidden: units of the recurrent layer.
        embedding: features of a character.
        length: characters read, and predicted, at a stretch.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    return text_task(shipped_text(VERSE), length, embedding, Recurrence("lstm", embedding, hidden), num_features=hidden)


@register_module_task("text-rnn", batch_size=32)
def text_rnn(
    *,
    data: DataPath,
    hidden: int = 64,
    cell: Annotated[str, partial(check_choices, ("gru", "elman", "lstm"))] = "gru",
    embedding: int = 16,
    length: int = 32,
) -> partial[ModuleTask]:
    """Recurrent character model (GRU, Elman or LSTM) of a text of your own, a file or a folder of files.

    The last tenth of the text is the test split; of a folder the files come in an order drawn once.

    Args:
        data: path of the file or folder.
        hidden: units of the recurrent layer.
        cell: gru, elman or lstm.
        embedding: features of a character.
        length: characters read, and predicted, at a stretch.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a size that is not a positive integer, an unknown cell, no text, or one too short for the length.
    """
    return text_task(own_text(str(data)), length, embedding, Recurrence(cell, embedding, hidden), num_features=hidden)
