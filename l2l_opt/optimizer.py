"""LearnedOptimizer: an update rule as a torch.optim.Optimizer."""

import copy
import itertools
import os
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from l2l_opt.checkpoint import digest, load_rule
from l2l_opt.kernels import CompiledStep, recurrent_step_, serves_in_place
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules.base import UpdateRule

SMALL_LR = 0.03
BOOKKEEPING = ("skipped",)
"""What the optimizer keeps in ``state[p]`` beside the rule's own tensors."""


class LearnedOptimizer(torch.optim.Optimizer):
    """Trains with a rule where ``torch.optim.AdamW(params, lr=...)`` stood.

        theta <- theta - lr * weight_decay * theta + lr * update,    update = g_phi(gradient, state, theta)

    It takes the same steps as the rule took in meta-training. State lies in ``optimizer.state[p]``.

    Args:
        params: parameters, named parameters, or groups of either.
        rule: None for the shipped default, the name of a shipped rule, the path of an artefact, or a rule.
        lr: dimensionless multiplier of the update; 1.0 is as meta-trained. A value below 0.03, the habit of other
            optimizers, warns once.
        weight_decay: per step, decoupled from the rule and multiplied by lr.
        num_steps: planned steps, for rules that anneal (a key of the group); None where unknown.
        maximize: climb instead of descend.
        guard: ``"skip"``: an update that is not finite, or whose gradient is not, is not applied, the tensor and its
            state stay as they are, and ``state[p]["skipped"]`` goes up; no device synchronisation. None: updates are
            applied as they come.

    Raises:
        ValueError: a number out of range, an unknown guard, an artefact that is not one.
        FileNotFoundError: no such artefact.
        TypeError: a rule of another kind.

    Example:
        >>> optimizer = LearnedOptimizer(model.parameters(), num_steps=1000)
        >>> loss_fn(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        rule: UpdateRule | str | os.PathLike[str] | None = None,
        *,
        lr: float = 1.0,
        weight_decay: float = 0.0,
        num_steps: int | None = None,
        maximize: bool = False,
        guard: Literal["skip"] | None = "skip",
    ):
        if guard not in ("skip", None):
            raise ValueError(f"guard must be 'skip' or None; got {guard!r}, use one of these")
        if isinstance(rule, (str, os.PathLike)) or rule is None:
            rule = load_rule(DEFAULT if rule is None else rule)
        elif not isinstance(rule, UpdateRule):
            raise TypeError(
                f"rule must be None, a name, a path or an UpdateRule; got {type(rule).__name__}, "
                "use e.g. rule=CoordinatewiseLSTM()"
            )
        self.rule, self.guard = rule, guard
        self._rule_digest = digest(dict(rule.named_parameters()))
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "num_steps": num_steps,
            "maximize": maximize,
            "rule": rule.registry_name or type(rule).__name__,
            "rule_digest": self._rule_digest,
        }
        super().__init__(params, defaults)
        if float(lr) < SMALL_LR:
            warnings.warn(
                f"lr multiplies the learned update and is 1.0 as meta-trained; got {float(lr):g}, which makes it "
                "hardly move: leave lr out unless that is meant",
                stacklevel=2,
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, perhaps with their own ``lr``, ``weight_decay``, ``num_steps`` and ``maximize``.

        Raises:
            ValueError: a number out of range.
        """
        options = {key: param_group.get(key, self.defaults[key]) for key in ("lr", "weight_decay", "num_steps")}
        for key in ("lr", "weight_decay"):
            if not float(options[key]) >= 0:
                raise ValueError(
                    f"{key} must not be negative; got {options[key]}, use e.g. {1.0 if key == 'lr' else 0}"
                )
        num_steps = options["num_steps"]
        if num_steps is not None and not num_steps > 0:
            raise ValueError(f"num_steps must be positive or None; got {num_steps}, use the planned number of steps")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the loss anew, with gradients enabled, and returns it.

        Returns:
            What the closure returned, or None.

        Raises:
            ValueError: a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        tensors = {name: p for name, p in self._named(group) if p.grad is not None}
        if not tensors:
            return
        device = next(iter(tensors.values())).device
        own = next(itertools.chain(self.rule.parameters(), self.rule.buffers()), None)
        if own is not None and own.device != device:
            self.rule.to(device)
        for name, p in tensors.items():
            assert p.grad is not None
            if p.grad.is_sparse:
                raise ValueError(f"gradients must be dense; got a sparse one for {name!r}, use e.g. sparse=False")
            if not self.state[p]:
                self.state[p].update(self.rule.init_state({name: p.detach()})[name])
        compiled = self.rule.compiled_step() if device.type == "cpu" else None
        in_place = [
            p
            for p in tensors.values()
            if compiled is not None and serves_in_place(p, _gradient(p), self._rule_state(p))
        ]
        if compiled is not None and in_place:
            self._step_in_place(group, compiled, in_place)
        served = {id(p) for p in in_place}
        others = {name: p for name, p in tensors.items() if id(p) not in served}
        if others:
            self._step_purely(group, others)

    def _step_in_place(self, group: dict[str, Any], compiled: CompiledStep, params: list[Tensor]) -> None:
        bad = recurrent_step_(
            compiled,
            params,
            [_gradient(p) for p in params],
            [self._rule_state(p) for p in params],
            num_steps=group["num_steps"],
            lr=float(group["lr"]),
            decay=float(group["lr"] * group["weight_decay"]),
            sign=-1.0 if group["maximize"] else 1.0,
            guarded=self.guard is not None,
        )
        for p, flag in zip(params, bad, strict=True):
            own = self.state[p]
            if flag != 1:
                own["step"] = own["step"] + 1
            if self.guard is not None:
                own["skipped"] = own.get("skipped", torch.zeros((), dtype=torch.int64)) + int(flag > 0)

    def _step_purely(self, group: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        params = {name: p.detach() for name, p in tensors.items()}
        grads = {name: -_gradient(p) if group["maximize"] else _gradient(p) for name, p in tensors.items()}
        state = {name: self._rule_state(p) for name, p in tensors.items()}
        num_steps = group["num_steps"]
        device = next(iter(tensors.values())).device
        planned = None if num_steps is None else torch.tensor(float(num_steps), device=device)
        updates, next_state = self.rule(grads, state, params, num_steps=planned)
        decay = group["lr"] * group["weight_decay"]
        for name, p in tensors.items():
            update, new = updates[name], next_state[name]
            change = update * group["lr"] - p * decay if decay else update * group["lr"]
            if self.guard == "skip":
                finite = torch.isfinite(update).all() & torch.isfinite(grads[name]).all()
                change = torch.where(finite, change, 0.0)
                new = {key: torch.where(finite, value, state[name][key]) for key, value in new.items()}
                skipped = self.state[p].get("skipped", 0)
                new["skipped"] = (~finite).to(torch.int64) + skipped
            p.add_(change)
            self.state[p].update(new)

    def _rule_state(self, p: Tensor) -> dict[str, Tensor]:
        return {key: value for key, value in self.state[p].items() if key not in BOOKKEEPING}

    def _named(self, group: dict[str, Any]) -> list[tuple[str, Tensor]]:
        names = group.get("param_names") or [str(index) for index in range(len(group["params"]))]
        return list(zip(names, group["params"], strict=True))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: the state of another rule, or of other weights of the same rule.
        """
        for group in state_dict["param_groups"]:
            if group.get("rule_digest") != self._rule_digest:
                raise ValueError(
                    f"a state must be loaded into an optimizer with the rule that made it; got the state of "
                    f"{group.get('rule')!r} ({str(group.get('rule_digest'))[:12]}) for {self.defaults['rule']!r} "
                    f"({self._rule_digest[:12]}), pass the same rule="
                )
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        # torch's keeps three entries only, so that copies would lose the rule.
        return super().__getstate__() | {key: getattr(self, key) for key in ("rule", "guard", "_rule_digest")}

    def __deepcopy__(self, memo: dict[int, Any]) -> "LearnedOptimizer":
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad
