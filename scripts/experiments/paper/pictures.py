"""What became of the pictures of neural art under each optimizer: a row a student."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from l2l_opt.evaluation.runs import reporting_students
from l2l_opt.inner_loop.training import train
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks import make_task
from l2l_opt.tasks.images.neural_art.styles import style_picture
from l2l_opt.tasks.images.neural_art.task import NeuralArt
from scripts.experiments.paper.figures import Setting

STUDENTS = 2
"""Drawn of each setting."""


def draw(path: Path, settings: Sequence[Setting], rules: dict[str, list[UpdateRule]]) -> None:
    """Draw style, content and what each optimizer made of the noise.

    Args:
        path: of the picture.
        settings: tasks of ``neural-art``.
        rules: name -> the rule for each setting.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = [(index, student) for index in range(len(settings)) for student in range(STUDENTS)]
    columns = ["style", "content", *rules]
    size = (2.2 * len(columns), 2.3 * len(rows))
    figure, panels = plt.subplots(len(rows), len(columns), figsize=size, layout="constrained", squeeze=False)
    for (index, student), panel_row in zip(rows, panels, strict=True):
        setting = settings[index]
        family = make_task(setting.task)
        assert isinstance(family, NeuralArt)
        shown = [style_picture(family.style, family.side)]
        for own in rules.values():
            students = reporting_students(own[index], family, numbers=[student], horizon=setting.horizon, seed=0)
            train(students)
            (member,) = students.members
            shown += [member.data["photo"]] if len(shown) == 1 else []
            shown.append(member.inner.params["picture"][0])
        for panel, name, picture in zip(panel_row, columns, shown, strict=True):
            panel.imshow(pixels(picture))
            panel.set(xticks=[], yticks=[])
            if (index, student) == rows[0]:
                panel.set_title(name)
        panel_row[0].set_ylabel(setting.title)
    figure.savefig(path, dpi=80, pil_kwargs={"quality": 88})
    plt.close(figure)


def pixels(picture: Tensor) -> np.ndarray:
    """``[3, height, width]`` as what matplotlib shows: colours beyond 0 and 1 are cut off."""
    return picture.detach().double().clamp(0, 1).permute(1, 2, 0).numpy()
