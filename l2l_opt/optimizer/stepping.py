"""One step of a rule on local parameters, in place: by a compiled kernel where there is one, otherwise by the rule.

Rules compute in the parameters' precision, float32 at least, and write back into parameters and their state.
"""

import copy
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_opt.kernels import CompiledPerceptron, CompiledStep, PreparedStep, native, serves_in_place, triton
from l2l_opt.optimizer.habits import warn
from l2l_opt.optimizer.local_parameters import (
    LocalParameter,
    finite_over_shards,
    in_precision,
    is_finite,
    largest,
    reduce_over,
    spread_of,
    widened,
)
from l2l_opt.optimizer.rounding import as_kept
from l2l_opt.optimizer.sharding import Shards
from l2l_opt.rules.base import UpdateRule, call_rule
from l2l_opt.rules.sharded_sums import Reduce, summed_by

CompiledRule = CompiledStep | CompiledPerceptron
"""What one call of a kernel computes."""
BLOCK_BYTES = 8 << 20
"""State, in bytes, of the coordinates that are stepped at a time on a CPU; temporaries are a few times as large."""
BLOCK_BYTES_ELSEWHERE = 256 << 20
StepCall = PreparedStep | triton.MixedStep
"""A step that may be taken again for as long as parameters and state stay where they are."""
Taken = tuple[StepCall, Sequence[LocalParameter]]


class Options(NamedTuple):
    """A group's options, as one step takes them.

    Attributes:
        num_steps: planned steps; None where unknown.
        lr: of the update.
        decay: of the parameters, per step.
        sign: of the gradients: -1 to climb.
        guarded: whether what is not finite is left out.
        loss: 0-dim, for a rule that reads it; None where nobody passes one.
        rate: 0-dim on the parameters' GPU, where it is read without waiting; multiplies lr and decay. None for 1.
    """

    num_steps: int | None
    lr: float
    decay: float
    sign: float
    guarded: bool
    loss: Tensor | None = None
    rate: Tensor | None = None

    def of_kernels(self) -> dict[str, Any]:
        """Return what a prepared step is given beside gradients."""
        return {key: getattr(self, key) for key in ("lr", "decay", "sign", "guarded", "rate")}


class Stepper:
    """Steps parameters by one rule.

    Args:
        rule: moved to the device of what it steps first.
    """

    def __init__(self, rule: UpdateRule):
        self.rule = rule
        self._copies: dict[torch.device, tuple[list[int], UpdateRule]] = {}
        self._home: torch.device | None = None
        self._seen: dict[Tensor, tuple[tuple[int, int], ...]] = {}

    def rule_on(self, device: torch.device) -> UpdateRule:
        """Return the rule, on a device: itself on the first that it steps on, a copy on others.

        So that where its weights lie does not change from step to step.
        """
        own = next(itertools.chain(self.rule.parameters(), self.rule.buffers()), None)
        self._home = self._home or device
        if own is None or own.device == device:
            return self.rule
        if device == self._home:
            return self.rule.to(device)
        versions = [weight._version for weight in self.rule.parameters()]
        if device not in self._copies or self._copies[device][0] != versions:
            self._copies[device] = versions, copy.deepcopy(self.rule).to(device)
        return self._copies[device][1]

    def step(self, params: Sequence[LocalParameter], options: Options, shards: Shards | None) -> list[Taken]:
        """One step, in place.

        Args:
            params: on one device, of parameters that are spread alike.
            options: of their group.
            shards: how they are divided over devices; None where they are whole.

        Returns:
            Calls that can be taken again, each with what it stepped.
        """
        by_name = {param.name: param for param in params}
        routes = self.rule_on(params[0].value.device).route({name: param.value for name, param in by_name.items()})
        return [
            call for rule, names in routes for call in self._step_by(rule, [by_name[n] for n in names], options, shards)
        ]

    def _step_by(
        self, rule: UpdateRule, params: Sequence[LocalParameter], options: Options, shards: Shards | None
    ) -> list[Taken]:
        device = params[0].value.device
        compiled = rule.compiled_step()
        if triton.computes(compiled, device, is_divided=shards is not None):
            assert compiled is not None
            return step_on_device(rule, compiled, params, options, shards)
        reduce = reduce_over(shards)
        compiled = compiled if device.type == "cpu" else None
        if compiled is not None and native.status == native.NOT_BUILT:
            _warn_of_slow_steps()
        # A kernel sums over what lies here alone.
        if reduce is not None and rule.reads_whole_tensors:
            compiled = None
        served: dict[tuple[torch.dtype, ...], list[LocalParameter]] = {}
        others: list[LocalParameter] = []
        for param in params:
            if compiled is not None and serves_in_place(compiled, param.value, param.grad, param.state):
                kept = ("hidden", *(compiled.moments or ()))
                dtypes = tuple(param.state[key].dtype for key in kept if key in param.state)
                served.setdefault(dtypes, []).append(param)
            else:
                others.append(param)
        again: list[Taken] = []
        for same in served.values():
            assert compiled is not None
            good = self._good(same, compiled, options, reduce)
            call = step_compiled(compiled, good, options) if good else None
            if call is not None and reduce is None and len(good) == len(same) and compiled.keeps_clock:
                again.append((call, same))
        if others:
            step_purely(rule, others, options, reduce)
        return again

    def _good(
        self, params: Sequence[LocalParameter], compiled: CompiledRule, options: Options, reduce: Reduce | None
    ) -> Sequence[LocalParameter]:
        """Return the parameters that a kernel may step; the others are skipped.

        It sees gradients that are not finite itself, but only those on this device. It keeps states finite, so they
        need not be looked through unless somebody else has changed them since.
        """
        if not options.guarded:
            return params
        suspects: list[LocalParameter] = []
        flags: list[Tensor] = []
        for param in params:
            versions = _versions(param)
            tensors = [] if self._seen.get(param.whole) == versions else list(param.state.values())
            self._seen[param.whole] = versions
            if reduce is not None:
                tensors.append(param.grad if compiled.moments is None else param.grad.square())
            if tensors:
                suspects.append(param)
                flags.append(is_finite(tensors))
        finite = finite_over_shards(flags, reduce)
        bad = {id(param.whole): param for param, flag in zip(suspects, finite, strict=True) if not flag}
        if not bad:
            return params
        skip(list(bad.values()))
        for param in bad.values():
            del self._seen[param.whole]
        return [param for param in params if id(param.whole) not in bad]


@functools.cache
def _warn_of_slow_steps() -> None:
    """Once a process: pip is silent about an extension that it could not build."""
    warn(
        f"{native.NOT_BUILT}; without them a step takes 6 to 50 times as long: install GCC or Clang and l2l_opt again, "
        "or a wheel that has them"
    )


def _versions(param: LocalParameter) -> tuple[tuple[int, int], ...]:
    """Return what changes where a state is changed by others than the kernels, which leave versions as they are."""
    kept = (value for value in param.state.values() if value.dim())
    return tuple((id(value), 0 if value.is_inference() else value._version) for value in kept)


def step_on_device(
    rule: UpdateRule,
    compiled: CompiledRule,
    params: Sequence[LocalParameter],
    options: Options,
    shards: Shards | None,
) -> list[Taken]:
    """One step on a GPU: by kernels there of what they can take, by the rule's forward pass of all else.

    Returns:
        The kernels' call, if there was one, with what it stepped.
    """
    served = [param for param in params if triton.serves(compiled, param.value, param.grad, param.state)]
    taken = set(map(id, served))
    others = [param for param in params if id(param) not in taken]
    again: list[Taken] = []
    if served:
        states = [param.state | {"skipped": param.own["skipped"]} for param in served]
        values, spread = [param.value for param in served], spread_of(served, shards)
        call = triton.MixedStep(compiled, values, states, num_steps=options.num_steps, spread=spread)
        call([param.grad for param in served], **options.of_kernels())
        again.append((call, served))
    if others:
        step_purely(rule, others, options, reduce_over(shards))
    return again


def step_compiled(compiled: CompiledRule, params: Sequence[LocalParameter], options: Options) -> PreparedStep:
    """One step of parameters that ``kernels.serves_in_place`` accepts, by one call of a compiled kernel, returned."""
    values, states = [param.value for param in params], [param.state for param in params]
    grads = [param.grad for param in params]
    call = PreparedStep(compiled, values, states, grads, num_steps=options.num_steps)
    flags = call(grads, **options.of_kernels())
    if not compiled.keeps_clock:
        moved = [param.state["step"] for param, flag in zip(params, flags, strict=True) if flag != 1]
        if moved:
            torch._foreach_add_(moved, 1)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
    skip([param for param, flag in zip(params, flags, strict=True) if flag])
    return call


def skip(params: Sequence[LocalParameter]) -> None:
    """Count one step that parameters were left out of."""
    for param in params:
        param.own["skipped"] += 1


def step_purely(rule: UpdateRule, params: Sequence[LocalParameter], options: Options, reduce: Reduce | None) -> None:
    """One step by the rule's own forward pass, in blocks, so that temporaries do not grow with the model.

    Args:
        rule: whose step.
        params: on one device, of parameters that are spread alike.
        options: of their group.
        reduce: sums over the parameters' shards; None where they are whole.
    """
    device = params[0].value.device
    # Filled there: to send it would be a wait.
    planned = None if options.num_steps is None else torch.full((), float(options.num_steps), device=device)
    loss = None if options.loss is None else options.loss.to(device) * options.sign
    finite: dict[str, Tensor] = {}
    if options.guarded:
        # Nothing of a tensor may have moved when a block of it turns out bad, so squares are thought of beforehand.
        most = [largest(param.grad) for param in params]
        flags = [torch.isfinite(m if _at_once(param, rule) else m * m) for param, m in zip(params, most, strict=True)]
        finite = {p.name: flag for p, flag in zip(params, finite_over_shards(flags, reduce), strict=True)}
    scalars: dict[str, dict[str, Tensor]] = {}
    for block in _blocks(params, rule):
        grads = {piece.name: widened(piece.grad) * options.sign for piece in block}
        values = {piece.name: widened(piece.value) for piece in block}
        state = {
            p.name: {key: in_precision(rule, key, kept, values[p.name].dtype) for key, kept in p.state.items()}
            for p in block
        }
        with summed_by(reduce):
            updates, next_state = call_rule(rule, grads, state, values, num_steps=planned, loss=loss)
        new = {p.name: _changed(values[p.name], updates[p.name], p.value.dtype, options) for p in block}
        if options.guarded:
            found = [
                is_finite([value, *(kept for kept in next_state[name].values() if kept.is_floating_point())])
                for name, value in new.items()
            ]
            # Blocks of one tensor are not the same on all devices, whole tensors are.
            found = finite_over_shards(found, reduce) if rule.reads_whole_tensors else found
            finite |= {name: finite[name] & flag for name, flag in zip(new, found, strict=True)}
        for piece in block:
            flag, after = finite.get(piece.name), next_state[piece.name]
            _write(piece.value, new[piece.name], flag)
            for key, value in as_kept(rule, after, piece).items():
                if value.dim():
                    _write(piece.state[key], value, flag)
            scalars[piece.name] = {key: value for key, value in after.items() if not value.dim()}
    for param in params:
        flag = finite.get(param.name)
        for key, value in scalars[param.name].items():
            _write(param.state[key], value, flag)
        if flag is not None:
            param.own["skipped"] += ~flag


def _changed(value: Tensor, update: Tensor, dtype: torch.dtype, options: Options) -> Tensor:
    """``value + rate * (lr * update - decay * value)``, rounded to the parameter's dtype."""
    change = update * options.lr
    if options.decay:
        change = change - value * options.decay
    if options.rate is not None:
        change = change * options.rate
    return (value + change).to(dtype)


def _write(to: Tensor, value: Tensor, flag: Tensor | None) -> None:
    to.copy_(value if flag is None else torch.where(flag, value.to(to.dtype), to))


def _blocks(params: Sequence[LocalParameter], rule: UpdateRule) -> Iterator[list[LocalParameter]]:
    """Several small parameters together, large ones in pieces unless the rule reads them whole.

    They are divided by their global sizes, so that all devices of a mesh sum over the same ones together.
    """
    together: list[LocalParameter] = []
    taken = 0
    for param in params:
        room, size = _room(param), param.whole.numel() * _bytes_a_coordinate(param)
        if together and taken + size > room:
            yield together
            together, taken = [], 0
        if _at_once(param, rule):
            together.append(param)
            taken += size
            continue
        axis = max(range(param.value.dim()), key=lambda axis: param.value.shape[axis])
        length = param.value.shape[axis]
        step = max(1, length * room // max(param.value.numel() * _bytes_a_coordinate(param), 1))
        for start in range(0, length, step):
            yield [param.narrow(axis, start, min(step, length - start))]
    if together:
        yield together


def _at_once(param: LocalParameter, rule: UpdateRule) -> bool:
    size = param.whole.numel() * _bytes_a_coordinate(param)
    return rule.reads_whole_tensors or size <= _room(param) or not param.value.numel()


def _room(param: LocalParameter) -> int:
    return BLOCK_BYTES if param.value.device.type == "cpu" else BLOCK_BYTES_ELSEWHERE


def _bytes_a_coordinate(param: LocalParameter) -> int:
    """Of state, value and gradient, in the precision that the rule computes in."""
    return 4 * (2 + sum(value.shape[0] for value in param.state.values() if value.dim()))
