"""What every measured file states: the command, the versions and the machine that made it."""

import json
import math
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

import l2l_opt

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a measurement as JSON beside where it comes from."""
    record = {
        "command": command(),
        "versions": versions(),
        "machine": {"cpus": os.cpu_count(), "processor": _processor(), "threads": torch.get_num_threads()},
        **content,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")


def command() -> str:
    """What runs, as one types it."""
    return shlex.join(["python", "-m", _module(), *sys.argv[1:]])


def versions() -> dict[str, str]:
    """What it runs with."""
    return {"l2l_opt": l2l_opt.__version__, "torch": torch.__version__, "python": platform.python_version()}


def numbers(values: list[float | None]) -> list[float]:
    """What a results file has of numbers, null where one was not finite."""
    return [math.inf if value is None else value for value in values]


def _module() -> str:
    """What runs, as one types it behind ``python -m``; under pytest it has no name of its own."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else Path(sys.argv[0]).stem


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
