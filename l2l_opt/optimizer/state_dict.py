"""A saved state on its way into LearnedOptimizer: of the same rule, whole, of fitting shapes, in its own dtypes.

torch.optim's own ``load_state_dict`` compares the lengths of groups and no more, so that a damaged state is found steps
later or never, and casts what it loads to the dtype of the parameter, which would round the state of those in half
precision. Here every entry is compared with a fresh state on the meta device, which costs no memory.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from l2l_opt.optimizer import sharding
from l2l_opt.optimizer.arguments import GROUP_OPTIONS, check_options, number_of, refusal, require
from l2l_opt.optimizer.local_parameters import (
    BOOKKEEPING,
    fresh_meta_state,
    largest,
    lying_in,
    order_for,
    plain,
    shape_for_rules,
)
from l2l_opt.pretrained import list_pretrained
from l2l_opt.rules.base import UpdateRule
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.storage.safetensors_file import brief, digest
from l2l_opt.types import is_dict, is_list

FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
INTEGER = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
HOW_TO_SHARD = "load it by torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
THE_SAME = "pass the rule= that made the state"


def check_state_dict(
    state_dict: Any,
    param_groups: Sequence[Mapping[str, Any]],
    *,
    rule: UpdateRule,
    defaults: Mapping[str, Any],
    must_be_finite: bool,
) -> None:
    """Refuse a state dict that an optimizer with these groups could not go on from; change nothing.

    A parameter may have no state yet, and a 0-dim tensor of the rule may be a plain number. Groups may hold entries
    beyond those that are needed (schedulers add some), if they are plain.

    Args:
        state_dict: as ``state_dict()`` gave it, perhaps saved and read since.
        param_groups: the optimizer's, which hold its parameters.
        rule: the optimizer's.
        defaults: the optimizer's, of which every group must have the same rule, and values for ``GROUP_OPTIONS``.
        must_be_finite: whether a state that is not is refused.

    Raises:
        ValueError: the first entry that does not fit.
    """
    if not (
        is_dict(state_dict)
        and is_dict(states := state_dict.get("state"))
        and is_list(groups := state_dict.get("param_groups"))
        and all(map(is_dict, groups))
    ):
        form = "a state dict must be a dict with a dict 'state' and a list of dicts 'param_groups'"
        kinds = {key: type(item).__name__ for key, item in state_dict.items()} if is_dict(state_dict) else state_dict
        raise refusal(form, kinds, "pass what state_dict() gave")
    require(
        len(groups) == len(param_groups),
        f"a state dict must have as many groups as the optimizer, {len(param_groups)}",
        len(groups),
        "make the groups that it was saved with",
    )
    owners: dict[Any, tuple[str, Tensor]] = {}
    keys: dict[int, Any] = {}
    for group, own in zip(groups, param_groups, strict=True):
        _check_group(group, defaults, rule)
        for key, name, p in _named(group, own["params"]):
            # Tied parameters are in a group twice, under one key.
            is_own = owners.setdefault(key, (name, p))[1] is p and keys.setdefault(id(p), key) == key
            require(is_own, "each parameter must have a key of its own", group["params"])
    for key, state in states.items():
        known = key in owners
        require(known, "state must belong to a parameter of a group", key, "pass state and groups of one optimizer")
        name, p = owners[key]
        if not is_dict(state):
            raise refusal(f"the state of parameter {name!r} must be a dict", state)
        if state:
            _check_state(state, name, p, rule=rule, must_be_finite=must_be_finite)


def digest_of(rule: UpdateRule) -> str:
    """Return what a state dict names its rule by: SHA-256 over the weights and the options."""
    options = json.dumps(dict(rule.config), sort_keys=True, default=str)
    return hashlib.sha256(f"{digest(dict(rule.named_parameters()))} {options}".encode()).hexdigest()


def _check_group(group: Mapping[Any, Any], defaults: Mapping[str, Any], rule: UpdateRule) -> None:
    (its, theirs), (name, own) = ([found.get("rule"), found.get("rule_digest")] for found in (group, defaults))
    # Releases before 0.3 took that of the weights alone.
    if its != name or theirs not in (own, digest(dict(rule.named_parameters()))):
        shipped = next((name for name in list_pretrained() if digest_of(load_rule(name)) == theirs), None)
        found = "" if shipped is None else f", {shipped!r}"
        raise ValueError(
            f"a state must be loaded into an optimizer with the rule that made it; got the state of {brief(its)} "
            f"({str(theirs)[:12]}) for {name!r} ({str(own)[:12]}), {THE_SAME}{found}"
        )
    for key in GROUP_OPTIONS:
        require(key in group, f"a group must have the entry {key!r}", sorted(map(str, group)))
    for key, default in defaults.items():
        if key in group and key not in GROUP_OPTIONS:
            require(_is_like(group[key], default), f"{key} must be of the kind of {brief(default)}", group[key])
    check_options({**defaults, **group}, loaded=True)
    for key, value in group.items():
        plain = isinstance(key, str) and (key == "params" or _is_plain(value))
        require(plain, "a group's entries must have names and plain values", {key: value}, "leave it out")


def _named(group: Mapping[str, Any], params: Sequence[Tensor]) -> Iterator[tuple[Any, str, Tensor]]:
    """Each key in the saved group, with the name and the parameter that it stands for."""
    keys, names = group.get("params"), group.get("param_names")
    if not is_list(keys) or any(type(key) not in (int, str) for key in keys):
        raise refusal("a group's 'params' must be a list of keys", keys)
    require(
        len(keys) == len(params),
        f"a group must have as many parameters as the optimizer's, {len(params)}",
        len(keys),
        "make the groups that it was saved with",
    )
    names = [str(index) for index in range(len(keys))] if names is None else names
    if not is_list(names) or len(names) != len(keys) or not all(isinstance(name, str) for name in names):
        raise refusal("a group's 'param_names' must name each parameter", names)
    return zip(keys, names, params, strict=True)


def _check_state(state: dict[Any, Any], name: str, p: Tensor, *, rule: UpdateRule, must_be_finite: bool) -> None:
    fresh = fresh_meta_state(rule, name, p)
    # What the optimizer keeps beside it, each of which may be absent.
    wanted = {
        **fresh,
        "skipped": torch.empty((), dtype=torch.int64, device="meta"),
        "fallback": torch.empty((3, *shape_for_rules(p)), device="meta"),
    }
    missing = sorted(fresh.keys() - state.keys())
    whole = f"the state of parameter {name!r} must hold all that its rule keeps"
    if missing:
        raise ValueError(f"{whole}; got none of {missing}, {THE_SAME}")
    # Of wrappers that keep a copy of their own, or the like, beside it.
    shape = tuple(p.shape)
    wrapped = (key for key in state.keys() - wanted.keys() if isinstance(state[key], Tensor))
    wanted |= {key: torch.empty_like(p, device="meta") for key in wrapped if tuple(state[key].shape) == shape}
    unknown = sorted(map(str, state.keys() - wanted.keys()))
    most = f"the state of parameter {name!r} must hold nothing but {', '.join(sorted(fresh))}"
    require(not unknown, most, unknown, THE_SAME)
    for key, value in state.items():
        about, like = f"state {key!r} of parameter {name!r}", wanted[key]
        if isinstance(value, Tensor):
            _check_tensor(value, like, p, about, must_be_finite=must_be_finite and key != "step")
        else:
            is_scalar = not like.dim() and key not in BOOKKEEPING and _is_plain_number(value)
            require(is_scalar, f"{about} must be a tensor", value)
    clock = state.get("step")
    counts = "step" not in fresh or 0 <= number_of(clock) < math.inf
    require(counts, f"state 'step' of parameter {name!r} must count steps", clock)


def _check_tensor(value: Tensor, like: Tensor, p: Tensor, about: str, *, must_be_finite: bool) -> None:
    require(value.layout == torch.strided, f"{about} must be dense", value.layout)
    shape, needed = tuple(value.shape), tuple(like.shape)
    require(shape == needed, f"{about} must have shape {needed}", shape, "load it into the same model")
    alike = value.dtype == like.dtype or any({value.dtype, like.dtype} <= kind for kind in (FLOATING, INTEGER))
    require(alike, f"{about} must be of a dtype like {like.dtype}", value.dtype)
    placed = not value.dim() or (sharding.shards_of(p) is None) == (sharding.shards_of(value) is None)
    require(placed, f"{about} must be sharded as its parameter is", type(value), HOW_TO_SHARD)
    if must_be_finite and value.is_floating_point():
        most = float(largest(plain(value)))
        require(math.isfinite(most), f"{about} must be finite", most, "load an earlier state or use guard=None")


def in_own_order(state_dict: Any, param_groups: Sequence[Mapping[str, Any]]) -> Any:
    """Reorder a state dict's groups to the optimizer's parameters, where both sides name the same ones."""
    if not (is_dict(state_dict) and is_list(groups := state_dict.get("param_groups"))):
        return state_dict
    if len(groups) != len(param_groups):
        return state_dict
    return {**state_dict, "param_groups": [*map(_in_order, groups, param_groups)]}


def _in_order(group: Any, own: Mapping[str, Any]) -> Any:
    wanted = own.get("param_names")
    if not (wanted and is_dict(group) and is_list(names := group.get("param_names")) and is_list(group.get("params"))):
        return group
    if len(names) != len(group["params"]) or sorted(map(str, names)) != sorted(wanted):
        return group
    keys = dict(zip(names, group["params"], strict=True))
    return {**group, "params": [keys[name] for name in wanted], "param_names": list(wanted)}


def _is_plain(value: Any, levels: int = 8) -> bool:
    if is_dict(value):
        return levels > 0 and all(isinstance(key, str) and _is_plain(item, levels - 1) for key, item in value.items())
    if is_list(value):
        return levels > 0 and all(_is_plain(item, levels - 1) for item in value)
    return value is None or isinstance(value, (bool, str, Real, torch.dtype)) or not math.isnan(number_of(value))


def _is_like(value: Any, default: Any) -> bool:
    """Whether a plain value is of the kind of another: None stands for a number that is not known yet."""
    if is_dict(default):
        return (
            # What earlier releases did not have yet is as at first.
            is_dict(value)
            and value.keys() <= default.keys()
            and all(_is_like(value[key], default[key]) for key in value)
        )
    if is_list(default):
        return is_list(value) and all(map(_is_plain_number, value))
    if isinstance(default, (bool, str)):
        return type(value) is type(default)
    return _is_plain_number(value) or (default is None and value is None)


def _is_plain_number(value: Any) -> bool:
    return not isinstance(value, Tensor) and not math.isnan(number_of(value))


class Boxed:
    """One parameter's state, passed through torch.optim's cast, which looks into dicts but not into this."""

    def __init__(self, state: dict[str, Any]):
        self.state = state


def boxed(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return the state dict with every parameter's state boxed."""
    return {**state_dict, "state": {key: Boxed(own) for key, own in state_dict["state"].items()}}


def unboxed(boxes: Mapping[Any, Any], rule: UpdateRule, state_dtype: torch.dtype | None) -> dict[Any, Any]:
    """States as an optimizer keeps them: on the device of their parameters, in memory of their own.

    Args:
        boxes: parameter -> its state, boxed.
        rule: whose state it is.
        state_dtype: of what the rule may keep in another; None for the dtype that was saved.
    """
    states: dict[Any, Any] = {}
    for param, box in boxes.items():
        states[param] = box
        if isinstance(box, Boxed):
            own: dict[str, Tensor] = {}
            order = order_for(rule, param)
            for key, value in box.state.items():
                dtype = rule.dtype_between_steps(key, state_dtype)
                tensor = torch.as_tensor(value, dtype=dtype if isinstance(value, Tensor) else torch.float32)
                own[key] = lying_in(tensor.detach().to(param.device, copy=True), order)
            if own:
                own.setdefault("skipped", torch.zeros((), dtype=torch.int64, device=param.device))
            states[param] = own
    return states
