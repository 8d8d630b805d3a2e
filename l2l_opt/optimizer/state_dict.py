"""A saved state on its way into LearnedOptimizer: of the same rule, whole, of fitting shapes, in its own dtypes.

torch.optim's own ``load_state_dict`` compares the lengths of groups and no more, so that a damaged state is found steps
later or never, and casts what it loads to the dtype of the parameter, which would round the state of those in half
precision. Here every entry is compared with what the rule would begin with, which costs no memory.
"""

import itertools
import math
import numbers
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from l2l_opt.optimizer import sharding
from l2l_opt.optimizer.local_parameters import BOOKKEEPING, is_finite, plain
from l2l_opt.rules.base import UpdateRule
from l2l_opt.storage.safetensors_file import brief

NEEDED = ("lr", "weight_decay", "num_steps", "maximize", "rule", "rule_digest")
HOW_TO_SHARD = "load it by torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_state_dict(
    state_dict: Any,
    param_groups: Sequence[Mapping[str, Any]],
    *,
    rule: UpdateRule,
    defaults: Mapping[str, Any],
    bookkeeping: Collection[str] = (),
) -> None:
    """Refuse a state dict that an optimizer with these groups could not go on from; change nothing.

    A parameter may have no state yet, and a 0-dim tensor may be a plain number. Numbers in the state are not judged,
    except the clock. Groups may hold entries beyond those that are needed (schedulers add some), if they are plain.

    Args:
        state_dict: as ``state_dict()`` gave it, perhaps saved and read since.
        param_groups: the optimizer's, which hold its parameters.
        rule: the optimizer's.
        defaults: the optimizer's, of which every group must have those in ``NEEDED``, the same rule's among them.
        bookkeeping: keys of a parameter's state that are the optimizer's and not the rule's; tensors, 0-dim or ending
            in the parameter's shape; each may be absent.

    Raises:
        ValueError: the first entry that does not fit.
    """
    require_form(state_dict)
    groups = state_dict["param_groups"]
    for group in groups:
        _check_rule(group, defaults)
    _require(
        len(groups) == len(param_groups),
        f"a state dict must have as many groups as the optimizer, {len(param_groups)}",
        len(groups),
        "make the groups that it was saved with",
    )
    owners: dict[Any, tuple[str, Tensor]] = {}
    keys: dict[int, Any] = {}
    for group, own in zip(groups, param_groups, strict=True):
        _check_values(group, defaults)
        for key, name, p in _named(group, own["params"]):
            # Tied parameters are in a group twice, under one key.
            _require(
                owners.setdefault(key, (name, p))[1] is p and keys.setdefault(id(p), key) == key,
                "each parameter must have a key of its own",
                group["params"],
                "save it anew",
            )
    for key, state in state_dict["state"].items():
        _require(
            key in owners, "state must belong to a parameter of a group", key, "pass state and groups of one optimizer"
        )
        name, p = owners[key]
        _require(isinstance(state, dict), f"the state of parameter {name!r} must be a dict", state, "save it anew")
        if state:
            _check_state(state, name, p, rule=rule, bookkeeping=bookkeeping)


def require_form(state_dict: Any) -> None:
    """Refuse what has not the form of a state dict at all, which torch.optim fails on before any hook is called.

    Raises:
        ValueError: no dict of a dict and a list of dicts.
    """
    _require(
        isinstance(state_dict, dict)
        and isinstance(state_dict.get("state"), dict)
        and isinstance(state_dict.get("param_groups"), (list, tuple))
        and all(isinstance(group, dict) for group in state_dict["param_groups"]),
        "a state dict must be a dict with a dict 'state' and a list of dicts 'param_groups'",
        {key: type(item).__name__ for key, item in state_dict.items()} if isinstance(state_dict, dict) else state_dict,
        "pass what state_dict() gave",
    )


def _check_rule(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    if group.get("rule_digest") != defaults["rule_digest"]:
        raise ValueError(
            f"a state must be loaded into an optimizer with the rule that made it; got the state of "
            f"{brief(group.get('rule'))} ({str(group.get('rule_digest'))[:12]}) for {defaults['rule']!r} "
            f"({defaults['rule_digest'][:12]}), pass the same rule="
        )


def _check_values(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    for key in NEEDED:
        _require(key in group, f"a group must have the entry {key!r}", sorted(map(str, group)), "save it anew")
    for key in ("lr", "weight_decay"):
        value = group[key]
        _require(0 <= _number(value) < math.inf, f"{key} must not be negative", value, "use e.g. 1.0")
    num_steps = group["num_steps"]
    _require(
        num_steps is None or 0 < _number(num_steps) < math.inf,
        "num_steps must be positive or None",
        num_steps,
        "use the planned number of steps",
    )
    maximize = group["maximize"]
    _require(isinstance(maximize, bool), "maximize must be True or False", maximize, "use one of these")
    _require(
        group["rule"] == defaults["rule"], f"rule must be {defaults['rule']!r}", group["rule"], "pass the same rule="
    )
    for key, value in group.items():
        _require(
            isinstance(key, str) and (key == "params" or _is_plain(value)),
            "a group's entries must have names and plain values",
            {key: value},
            "leave it out",
        )
    for key, default in defaults.items():
        _require(
            key in NEEDED or key not in group or _is_like(group[key], default),
            f"{key} must be of the kind of {brief(default)}",
            group.get(key),
            "save it anew",
        )


def _named(group: Mapping[str, Any], params: Sequence[Tensor]) -> Iterable[tuple[Any, str, Tensor]]:
    """Each key in the saved group, with the name and the parameter that it stands for."""
    keys, names = group.get("params"), group.get("param_names")
    _require(
        isinstance(keys, (list, tuple)) and all(type(key) in (int, str) for key in keys),
        "a group's 'params' must be a list of keys",
        keys,
        "save it anew",
    )
    assert isinstance(keys, (list, tuple))
    _require(
        len(keys) == len(params),
        f"a group must have as many parameters as the optimizer's, {len(params)}",
        len(keys),
        "make the groups that it was saved with",
    )
    _require(
        names is None
        or (isinstance(names, (list, tuple)) and len(names) == len(keys) and all(isinstance(n, str) for n in names)),
        "a group's 'param_names' must name each parameter",
        names,
        "save it anew",
    )
    names = [str(index) for index in range(len(keys))] if names is None else names
    return zip(keys, names, params, strict=True)


def _check_state(
    state: Mapping[str, Any], name: str, p: Tensor, *, rule: UpdateRule, bookkeeping: Collection[str]
) -> None:
    fresh = _fresh_state(rule, name, p)
    missing, unknown = fresh.keys() - state.keys(), state.keys() - fresh.keys() - set(bookkeeping)
    if missing:
        raise ValueError(
            f"the state of parameter {name!r} must hold all that its rule keeps; got none of {sorted(missing)}, "
            "pass the state of the same rule"
        )
    _require(
        not unknown,
        f"the state of parameter {name!r} must hold nothing but {', '.join(sorted(fresh))}",
        sorted(map(str, unknown)),
        "pass the state of the same rule",
    )
    shape = _shape(p)
    for key, value in state.items():
        if key in fresh and fresh[key].dim() == 0 and _is_plain_number(value):
            continue
        about = f"state {key!r} of parameter {name!r}"
        if not isinstance(value, Tensor):
            raise ValueError(
                f"the state of parameter {name!r} must hold tensors; got {type(value).__name__} as {brief(key)}, "
                "save it anew"
            )
        _require(value.layout == torch.strided, f"{about} must be dense", value.layout, "save it anew")
        if key not in fresh:
            ends = value.dim() == 0 or value.shape[max(value.dim() - len(shape), 0) :] == shape
            fits = ends and not value.is_complex() and value.dtype != torch.bool
            _require(fits, f"{about} must have shape () or end in {shape}, of real numbers", value, "save it anew")
            continue
        _require(
            value.shape == fresh[key].shape,
            f"{about} must have shape {tuple(fresh[key].shape)}",
            tuple(value.shape),
            "load it into the same model",
        )
        _require(
            value.dtype in FLOATING if fresh[key].is_floating_point() else value.dtype == fresh[key].dtype,
            f"{about} must be of a dtype like {fresh[key].dtype}",
            value.dtype,
            "save it anew",
        )
    clock = state.get("step")
    _require(
        "step" not in fresh or 0 <= _number(clock) < math.inf,
        f"state 'step' of parameter {name!r} must count steps",
        clock,
        "save it anew",
    )


def _fresh_state(rule: UpdateRule, name: str, p: Tensor) -> Mapping[str, Tensor]:
    """What the rule would begin with for one parameter, on the meta device where the rule can do that."""
    shape = _shape(p)
    dtype = p.dtype.to_real() if p.is_complex() else p.dtype
    try:
        return rule.init_state({name: torch.empty(shape, dtype=dtype, device="meta")})[name]
    except RuntimeError:
        # A rule of a plugin may look at values, which the meta device has not (NotImplementedError among others).
        device = next((weight.device for weight in rule.parameters()), torch.device("cpu"))
        return rule.init_state({name: torch.zeros(shape, dtype=dtype, device=device)})[name]


def _shape(p: Tensor) -> tuple[int, ...]:
    """As a rule sees it: of a complex parameter the real and imaginary parts, of a sharded one all of it."""
    return (*p.shape, 2) if p.is_complex() else tuple(p.shape)


def _number(value: Any) -> float:
    """A real number or a tensor of one as a float; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, (Real, Tensor)):
        return math.nan
    if isinstance(value, Tensor) and (value.numel() != 1 or value.is_complex() or value.dtype == torch.bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _is_plain(value: Any, levels: int = 8) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(isinstance(key, str) and _is_plain(item, levels - 1) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return levels > 0 and all(_is_plain(item, levels - 1) for item in value)
    return value is None or isinstance(value, (bool, str, Real)) or not math.isnan(_number(value))


def _is_like(value: Any, default: Any) -> bool:
    """Whether a plain value is of the kind of another: None stands for a number that is not known yet."""
    if isinstance(default, dict):
        return (
            isinstance(value, dict)
            and value.keys() == default.keys()
            and all(_is_like(value[key], default[key]) for key in default)
        )
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple)) and all(_is_like(item, 0.0) for item in value)
    if isinstance(default, (bool, str)):
        return type(value) is type(default)
    return _is_plain_number(value) or (default is None and value is None)


def _is_plain_number(value: Any) -> bool:
    return not isinstance(value, Tensor) and not math.isnan(_number(value))


def _require(holds: bool, rule: str, value: Any, fix: str) -> None:
    if not holds:
        raise ValueError(f"{rule}; got {brief(value)}, {fix}")


class Boxed:
    """One parameter's state, passed through torch.optim's cast, which looks into dicts but not into this."""

    def __init__(self, state: dict[str, Any]):
        self.state = state


def boxed(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict with every parameter's state boxed."""
    state = {key: Boxed(own) if isinstance(own, dict) else own for key, own in state_dict["state"].items()}
    return {**state_dict, "state": state}


def unboxed(boxes: Mapping[Any, Any], rule: UpdateRule, state_dtype: torch.dtype | None) -> dict[Any, Any]:
    """States as an optimizer keeps them: on the device of their parameters, in memory of their own.

    Args:
        boxes: parameter -> its state, boxed.
        rule: whose state it is.
        state_dtype: of the recurrent state; None for the dtype that was saved.
    """
    states: dict[Any, Any] = {}
    for param, box in boxes.items():
        states[param] = box
        if isinstance(box, Boxed):
            states[param] = {}
            for key, value in box.state.items():
                dtype = state_dtype if key in rule.recurrent_state else None
                tensor = torch.as_tensor(value, dtype=dtype if isinstance(value, Tensor) else torch.float32)
                states[param][key] = tensor.detach().to(param.device, copy=True)
            if states[param]:
                states[param].setdefault("skipped", torch.zeros((), dtype=torch.int64, device=param.device))
    return states


def check_options(group: dict[str, Any]) -> None:
    """Raises a ValueError where an option of a group is out of range."""
    for key in ("lr", "weight_decay"):
        value = group[key]
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"Tensor {key} must be 1-element; got shape {tuple(value.shape)}, use one number")
        if not isinstance(value, (numbers.Real, Tensor)):
            raise ValueError(f"{key} must be a number; got {value!r}, use e.g. {1.0 if key == 'lr' else 0}")
        if not float(value) >= 0:
            raise ValueError(f"{key} must not be negative; got {value}, use e.g. {1.0 if key == 'lr' else 0}")
    num_steps = group["num_steps"]
    if num_steps is not None and not (isinstance(num_steps, (numbers.Real, Tensor)) and float(num_steps) > 0):
        raise ValueError(f"num_steps must be positive or None; got {num_steps!r}, use the planned number of steps")
    taken = group["steps_taken"]
    if not isinstance(taken, int) or taken < 0:
        raise ValueError(f"steps_taken counts steps; got {taken!r}, leave it to the optimizer")
    if not isinstance(group["maximize"], (bool, numbers.Integral)):
        raise ValueError(f"maximize must be True or False; got {group['maximize']!r}, use one of these")


def check_values(state_dict: dict[str, Any], named: Iterable[tuple[str, Tensor]], *, must_be_finite: bool) -> None:
    """Raises a ValueError where a saved state, whose form is right, does not go with these parameters.

    Args:
        state_dict: as ``check_state_dict`` has found it to be whole.
        named: names and parameters of all groups, in their order.
        must_be_finite: whether a state that is not is refused.
    """
    saved = itertools.chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    for index, (name, param) in zip(saved, named, strict=False):
        for key, value in state_dict["state"].get(index, {}).items():
            if isinstance(value, Tensor):
                _check_value(value, key, name, param, must_be_finite=must_be_finite)


def _check_value(value: Tensor, key: str, name: str, param: Tensor, *, must_be_finite: bool) -> None:
    shape = (*param.shape, 2) if param.is_complex() else tuple(param.shape)
    needed = {"skipped": (), "fallback": (3, *shape)}.get(key, tuple(value.shape))
    if tuple(value.shape) != needed:
        raise ValueError(
            f"state {key!r} of {name!r} must have shape {needed}; got {tuple(value.shape)}, "
            "load the state of parameters of the same shapes"
        )
    if key in BOOKKEEPING and value.is_floating_point() != (key == "fallback"):
        kind = "a floating" if key == "fallback" else "an integer"
        raise ValueError(
            f"state {key!r} of {name!r} must have {kind} dtype; got {value.dtype}, load a state_dict() of this rule"
        )
    if value.dim() and (sharding.shards_of(param) is None) != (sharding.shards_of(value) is None):
        raise ValueError(
            f"the state of a sharded parameter must be sharded like it, and no other; got {key!r} of {name!r}, "
            f"{HOW_TO_SHARD}"
        )
    if must_be_finite and value.is_floating_point() and not is_finite([plain(value)]):
        raise ValueError(
            f"a state must be finite; got {key!r} of {name!r} with infinite or undefined values, "
            "load an earlier state or use guard=None"
        )
