"""The student: task families. Importing this package registers them all."""

from l2l_opt.tasks import images, policies, synthetic, tables, text
from l2l_opt.tasks.base import TASKS, TaskFamily, make_task, register_task
from l2l_opt.tasks.module_task import ModuleTask

__all__ = [
    "TASKS",
    "ModuleTask",
    "TaskFamily",
    "images",
    "make_task",
    "policies",
    "register_task",
    "synthetic",
    "tables",
    "text",
]
