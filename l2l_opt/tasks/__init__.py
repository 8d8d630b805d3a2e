"""The student: task families. Importing this package registers them all."""

from l2l_opt.tasks import (
    attention_text,
    autoencoder,
    conv,
    convnet,
    least_squares,
    mlp,
    quadratics,
    recurrent_text,
    synthetic,
)
from l2l_opt.tasks.base import TASKS, TaskFamily, make_task, register_task
from l2l_opt.tasks.module_task import ModuleTask

__all__ = [
    "TASKS",
    "ModuleTask",
    "TaskFamily",
    "attention_text",
    "autoencoder",
    "conv",
    "convnet",
    "least_squares",
    "make_task",
    "mlp",
    "quadratics",
    "recurrent_text",
    "register_task",
    "synthetic",
]
