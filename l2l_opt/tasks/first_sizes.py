"""Registered families from other first sizes: larger or smaller by kind, GPT-2's, with scaled or empty branches.

A first size is changed and nothing else makes up for it: the student starts at another point of the same function.
"""

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from l2l_opt.checks import NotNegative, check_choices, check_options
from l2l_opt.tasks.base import TASKS, TaskFamily
from l2l_opt.tasks.layers.attention import Places
from l2l_opt.tasks.layers.basic import Residual
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.student_module import StudentModule

SIZED = (
    "fashion-mlp",
    "digits-mlp",
    "clusters-mlp",
    "fashion-conv",
    "novel-rnn",
    "novel-attention",
    "recommendation",
)
"""Families that ``sized-NAME`` is registered for."""
GPT2 = 0.02
"""Deviation of GPT-2's first weights."""
EMBEDDINGS: tuple[type[nn.Module], ...] = (nn.Embedding,)


def kinds_of(module: nn.Module) -> dict[str, str]:
    """Kind of each weight with a first size: embeddings, places, matrices, branches, head or scales; biases have none.

    A branch's last matrix is of the kind ``branches``, and the module's last one the ``head``.
    """
    last_of_branch = {
        [part for part in residual.modules() if isinstance(part, nn.Linear)][-1]
        for residual in module.modules()
        if isinstance(residual, Residual)
    }
    found: dict[str, str] = {}
    for name, part in module.named_modules():
        for key, weight in part.named_parameters(name, recurse=False):
            if isinstance(part, EMBEDDINGS):
                found[key] = "embeddings"
            elif isinstance(part, Places):
                found[key] = "places"
            elif weight.dim() >= 2:
                found[key] = "branches" if part in last_of_branch else "matrices"
            elif key.endswith("weight"):
                found[key] = "scales"
    last = [name for name, kind in found.items() if kind == "matrices"][-1:]
    return found | dict.fromkeys(last, "head")


class ScaledBranch(nn.Module):
    """A branch times a number for every feature, the same one at first (LayerScale)."""

    def __init__(self, branch: nn.Module, width: int, first: float):
        super().__init__()
        self.branch, self.first = branch, first
        self.scale = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, self.first)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.branch(x)


class FrozenWithPair(nn.Module):
    """A frozen linear layer and a low-rank pair of matrices beside it, the second of which is zero at first (LoRA)."""

    def __init__(self, frozen: nn.Linear, rank: int):
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.narrow = nn.Linear(frozen.in_features, rank, bias=False)
        self.wide = nn.Parameter(torch.empty(frozen.out_features, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.wide)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.narrow(x) @ self.wide.T


def _with_scales(module: nn.Module, first: float) -> None:
    for residual in [part for part in module.modules() if isinstance(part, Residual)]:
        width = [part for part in residual.modules() if isinstance(part, nn.Linear)][-1].out_features
        residual.branch = ScaledBranch(residual.branch, width, first)  # pyright: ignore[reportAttributeAccessIssue]


def _with_pairs(module: nn.Module, rank: int) -> None:
    # All linear layers but the last, as a seed of their own draws them.
    linear = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)][:-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, part in linear:
            part.reset_parameters()
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, FrozenWithPair(part, rank))


def _gpt2(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, (nn.Linear, Places, *EMBEDDINGS)):
            nn.init.normal_(part.weight, std=GPT2)  # pyright: ignore[reportArgumentType]
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


FIRST: dict[str, Callable[[nn.Module], None]] = {"own": lambda module: None, "gpt2": _gpt2}


def sized(
    family: ModuleTask,
    *,
    first: Annotated[str, partial(check_choices, FIRST)] = "own",
    embeddings: NotNegative = 1.0,
    places: NotNegative = 1.0,
    matrices: NotNegative = 1.0,
    branches: NotNegative = 1.0,
    head: NotNegative = 1.0,
    scales: NotNegative = 1.0,
    layer_scale: NotNegative | None = None,
    pairs: int | None = None,
) -> ModuleTask:
    """Let the students of a family start from other sizes.

    Args:
        family: as it was made; it is changed.
        first: whose first weights: the family's own, or gpt2 (Gaussian of deviation .02, biases zero).
        embeddings: factor on the first weights of embeddings.
        places: of learned vectors for places.
        matrices: of hidden matrices and kernels.
        branches: of the last matrix of each residual branch; 0 for branches that begin empty.
        head: of the last matrix.
        scales: of what norms multiply with.
        layer_scale: first value of a scale on every residual branch; none where None.
        pairs: rank of low-rank pairs; all linear layers but the last are frozen, each with a pair. None for none.

    Raises:
        ValueError: an unknown option or word, a number that is negative or no positive integer.
    """
    factors = {
        "embeddings": embeddings,
        "places": places,
        "matrices": matrices,
        "branches": branches,
        "head": head,
        "scales": scales,
    }
    module, draw = family.module, family.student.init_fn
    if layer_scale is not None:
        _with_scales(module, layer_scale)
    if pairs is not None:
        _with_pairs(module, pairs)
    kinds = kinds_of(module)

    def init(fresh: nn.Module) -> None:
        draw(fresh)
        FIRST[first](fresh)
        with torch.no_grad():
            for key, weight in fresh.named_parameters():
                if key in kinds and weight.requires_grad:
                    weight.mul_(factors[kinds[key]])

    family.student = StudentModule(module, init_fn=init, device=family.device, dtype=family.dtype)
    family.module, family.buffers = family.student.module, family.student.constants
    return family


def register_sized(name: str) -> None:
    """Enter ``sized-NAME``, a family with the options of ``sized`` beside its own."""
    base = TASKS.parameters(name)
    own = {key: value for key, value in inspect.signature(sized).parameters.items() if value.kind is value.KEYWORD_ONLY}

    def factory(**options: Any) -> TaskFamily:
        sizes = {key: value for key, value in options.items() if key in own}
        check_options(sized, **sizes)
        family = TASKS.make(name, **{key: value for key, value in options.items() if key not in own})
        assert isinstance(family, ModuleTask)
        return sized(family, **sizes)

    functools.update_wrapper(factory, TASKS.factory(name))
    factory.__module__ = __name__
    factory.__doc__ = f"{TASKS.summary(name).rstrip('.')}, from other first sizes (see ``tasks/first_sizes.py``)."
    factory.__signature__ = inspect.Signature([*base.values(), *own.values()])  # pyright: ignore[reportFunctionMemberAccess]
    TASKS.register(f"sized-{name}", factory)


for _name in SIZED:
    register_sized(_name)
