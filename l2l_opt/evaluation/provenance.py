"""What determines a result besides its options: code, data, versions, the rule's weights, the machine."""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from l2l_opt.inner_loop.fresh_student import fresh_student
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.storage.safetensors_file import digest
from l2l_opt.tasks.base import TASKS
from l2l_opt.tasks.mixture import Tasks, components_of
from l2l_opt.version import __version__

PACKAGE = "l2l_opt"
NOT_OF_BASELINES = ("l2l_opt.kernels", "l2l_opt.inner_loop.replay", "l2l_opt.rules.recurrent")
"""Code that no hand-designed rule runs, so that their results outlive its changes."""


def versions() -> dict[str, str]:
    """Of torch and of this package."""
    return {"torch": torch.__version__, "l2l_opt": __version__}


@functools.lru_cache(None)
def version_of(package: str) -> str:
    """``name version`` of an installed package, of whatever name its module has."""
    names = importlib.metadata.packages_distributions().get(package, [package])
    return f"{names[0]} {importlib.metadata.version(names[0])}"


def code_digest(modules: Iterable[str], *, without: Iterable[str] = ()) -> str:
    """SHA-256 over the source files of modules and of all they import from this package, theirs included.

    Args:
        modules: dotted names; files of compiled kernels count with ``l2l_opt.kernels``.
        without: dotted names of modules that are not followed, nor what lies below them.
    """
    seen = imported(modules, without=without)
    files = {path for name in seen if (path := _file(name)) is not None}
    if any(name.startswith("l2l_opt.kernels") for name in seen):
        files |= {path for path in (Path(__file__).parent.parent / "kernels" / "native").rglob("*") if path.is_file()}
    sha = hashlib.sha256()
    for path in sorted(files):
        sha.update(f"{path.name}|".encode() + _content(path))
    return sha.hexdigest()


def imported(modules: Iterable[str], *, without: Iterable[str] = ()) -> set[str]:
    """Names of modules and of all that they import from this package, theirs included.

    Args:
        modules: dotted names.
        without: dotted names of modules that are not followed, nor what lies below them.
    """
    found: set[str] = set()
    waiting = list(modules)
    excluded = tuple(without)
    while waiting:
        name = waiting.pop()
        if name not in found and not any(name == own or name.startswith(f"{own}.") for own in excluded):
            found.add(name)
            waiting += _imports(name)
    return found


def task_code(spec: str) -> list[str]:
    """Modules that the families of a task or a mixture are written in."""
    factories = [TASKS.factory(component.name) for component in components_of(spec)]
    # A family may be made of another one's, whose code counts as well.
    wrapped = [own for factory in factories for own in _unwrapped(factory)]
    modules = [own.func.__module__ if isinstance(own, functools.partial) else own.__module__ for own in wrapped]
    return list(dict.fromkeys(modules))


def fingerprint(tasks: Tasks, *, seed: int) -> list[str]:
    """First losses of a student of each stream, exactly: other data, or another family, shows in them."""
    losses = []
    for stream in (Stream.TUNING, Stream.REPORTING):
        own = fresh_student(tasks, seed=seed, stream=stream)
        with torch.no_grad():
            for split in ("train", "test"):
                losses.append(float(own.loss(own.params, own.batch(split))).hex())
    return losses


def rule_identity(rule: UpdateRule) -> dict[str, Any]:
    """Return a rule's name, config, weights and code."""
    return {
        "name": rule.registry_name or type(rule).__name__,
        "config": rule.config,
        "phi": digest(dict(rule.named_parameters())),
        "code": code_digest({type(part).__module__ for part in rule.modules() if isinstance(part, UpdateRule)}),
    }


def machine() -> dict[str, Any]:
    """Return what times depend on: processor, cores, threads of torch."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return {"processor": name, "threads": torch.get_num_threads()}


def _unwrapped(factory: Any) -> list[Any]:
    found = [factory]
    while (inner := getattr(found[-1], "__wrapped__", None)) is not None:
        found.append(inner)
    return found


@functools.lru_cache(None)
def _file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    return Path(spec.origin) if spec is not None and spec.origin is not None and spec.has_location else None


def _content(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@functools.lru_cache(None)
def _imports(name: str) -> list[str]:
    path = _file(name)
    if path is None or path.suffix != ".py":
        return []
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE and not node.level:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [module for module in below if _file(module) is not None]
            # A package's own file only lists what it exports, unless that is what is imported.
            found += modules if len(modules) == len(below) else [node.module, *modules]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE]
    return found
