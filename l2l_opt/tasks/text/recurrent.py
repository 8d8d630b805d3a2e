"""Recurrent character models."""

from functools import partial
from typing import Annotated

from l2l_opt.checks import check_choices
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.layers.recurrent import Recurrence
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.text.corpus import NOVEL, VERSE, text_task


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
    return text_task(NOVEL, length, embedding, Recurrence(cell, embedding, hidden), num_features=hidden)


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
    return text_task(VERSE, length, embedding, Recurrence("lstm", embedding, hidden), num_features=hidden)
