"""How much memory there is, and how much this process takes."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch


def gibibytes(count: float) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def peak_bytes(device: torch.device, action: Callable[[], object]) -> int:
    """Most memory that the process held at one moment of the action."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return torch.cuda.max_memory_reserved(device)
    with contextlib.suppress(OSError):
        # Resets VmHWM to what is held now. Where that is not allowed, the greatest peak so far stands in for it.
        Path("/proc/self/clear_refs").write_text("5")
    action()
    import resource  # Not on every system, and tasks import this module on all.

    return _from_status("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident_bytes(device: torch.device) -> int:
    """Memory that this process has."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else _from_status("VmRSS:")


def _from_status(key: str) -> int:
    return sum(1024 * int(line.split()[1]) for line in _lines("/proc/self/status") if line.startswith(key))


def available_bytes(device: torch.device) -> int | None:
    """Memory that this process may still take, with what it has: of the GPU, or of the machine and its cgroup."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    own = resident_bytes(device)
    limits = [own + 1024 * int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    folder = Path("/sys/fs/cgroup")
    maximum, current = (_lines(folder / name) for name in ("memory.max", "memory.current"))
    if maximum and current and maximum[0].strip() != "max":
        limits.append(int(maximum[0]) - int(current[0]) + own)
    return min(limits) if limits else None


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:  # Not a Linux machine, or no such limit: then it does not bind.
        return []
