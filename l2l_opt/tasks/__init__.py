"""The student: task families. Importing this package registers them all."""

from l2l_opt.tasks import convnet, mlp, quadratics
from l2l_opt.tasks.base import TASKS, TaskFamily, make_task, register_task
from l2l_opt.tasks.module_task import ModuleTask

__all__ = ["TASKS", "ModuleTask", "TaskFamily", "convnet", "make_task", "mlp", "quadratics", "register_task"]
