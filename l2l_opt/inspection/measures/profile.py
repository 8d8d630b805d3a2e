"""Where the time of outer steps goes."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from l2l_opt.meta_training.outer_loop import OuterStep, Validation
from l2l_opt.meta_training.trainer import MetaTrainer
from l2l_opt.storage.files import write_atomically

SKIPPED, WARM_UP, ACTIVE = 1, 1, 3
"""Outer steps until the profile, which the first ones would mislead, and outer steps in it."""


class MetaTrainingProfile:
    """Profiles a few outer steps: operators by their own time in profile.txt, a Chrome trace in profile.json.

    Args:
        folder: where both are written, once the last profiled outer step is over.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self.profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=SKIPPED, warmup=WARM_UP, active=ACTIVE, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )
        self.profiler.start()

    def on_outer_step(self, trainer: MetaTrainer, step: OuterStep) -> None:
        self.profiler.step()

    def on_validation(self, trainer: MetaTrainer, validation: Validation) -> None:
        """Nothing: validations are in the trace as they come."""

    def close(self) -> None:
        self.profiler.stop()

    def _write(self, profiler: torch.profiler.profile) -> None:
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=40)
        write_atomically(self.folder / "profile.txt", table.encode())
        profiler.export_chrome_trace(str(self.folder / "profile.json"))
