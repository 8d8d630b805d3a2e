"""The student: task families. Importing this package registers them all."""

from l2l_opt.tasks import images, policies, synthetic, tables, text  # isort: skip
from l2l_opt.tasks import first_sizes  # isort: skip - registers others of what these have registered
from l2l_opt.tasks.base import TASKS, TaskFamily, make_task, register_task
from l2l_opt.tasks.module_task import ModuleTask

__all__ = [
    "TASKS",
    "ModuleTask",
    "TaskFamily",
    "first_sizes",
    "images",
    "make_task",
    "policies",
    "register_task",
    "synthetic",
    "tables",
    "text",
]
