"""What users of other optimizers bring along: noticed at the step that is taken with it, and said once."""

import inspect
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

from l2l_opt.rules.base import UpdateRule

SMALL_LR = 0.03
LARGEST_DROP = 10
"""By what a schedule that leaves no trace in the group, as fastai's, divides the rate from step to step at most."""
STEPS_OF_A_SCHEDULE = 5
"""Steps at usual rates, after which any drop is a schedule's, as ReduceLROnPlateau's, and no habit."""
FAR = 10
"""Times the horizon that a rule was meta-trained on, beyond which it is used at one's own risk."""
OTHERS = frozenset(("betas", "eps", "foreach", "fused", "amsgrad", "nesterov", "dampening"))
"""Options of other optimizers, which have no effect in a group; ``momentum`` is there for schedulers that cycle it."""


class Habits:
    """Look at the groups of an optimizer as steps are taken, and warn once of each habit."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._rates: dict[int, float] = {}
        self._small_at: dict[int, int] = {}

    def restart(self, groups: Sequence[dict[str, Any]]) -> None:
        """Reset to the rates of groups that were loaded; what was warned of is not warned of again."""
        self._small_at = {}
        self._rates = {id(group): float(group["lr"]) for group in groups if group.get("lr") is not None}

    def look(self, group: dict[str, Any], lr: float) -> None:
        """Look at a group before its step, for a rate or options that other optimizers would want."""
        if lr < SMALL_LR or group.get("momentum") or not OTHERS.isdisjoint(group):
            self._look_closely(group, lr)
        else:
            self._rates[id(group)] = lr

    def _look_closely(self, group: dict[str, Any], lr: float) -> None:
        if all(p.grad is None for p in group["params"]):
            return
        usual = max(float(group.get(key, 0.0)) for key in ("initial_lr", "max_lr"))
        before = self._rates.get(id(group), 0.0)
        gently = 0 < before <= LARGEST_DROP * lr * (1 + 1e-6)
        at_usual = group["steps_taken"] - self._small_at.get(id(group), 0)
        late = before == math.inf or (before >= SMALL_LR and at_usual >= STEPS_OF_A_SCHEDULE)
        self._rates[id(group)], self._small_at[id(group)] = math.inf if late else lr, group["steps_taken"]
        # After its first step, a scheduler of usual rates means small ones; none at all is torch's, to make states.
        if 0 < lr < SMALL_LR and not (group["steps_taken"] and (usual >= SMALL_LR or gently or late)):
            self._say_once(
                f"lr multiplies the learned update and is 1.0 as meta-trained; got {lr:g}, which makes it hardly move: "
                "leave lr out, or let a schedule rise to 1, unless that is meant",
                about="lr",
            )
        unused = sorted(OTHERS & group.keys()) + ["momentum"] * bool(group.get("momentum"))
        if unused:
            self._say_once(f"{', '.join(unused)} in a group has no effect: the rule has its own", about="others")

    def look_for_loss(self, rule: UpdateRule, loss: object) -> None:
        """Look whether a rule that reads the training loss is given one."""
        if rule.reads_loss and loss is None:
            self._say_once(
                "a rule that reads the training loss does without where it is given none; got a step without: "
                "use optimizer.step(loss=loss) or a closure",
                about="loss",
            )

    def look_beyond_plan(self, groups: Sequence[dict[str, Any]], rule: UpdateRule, title: str) -> None:
        """Look for steps beyond those planned, or far beyond those of meta-training, after they were taken."""
        for group in groups:
            if group["steps_taken"] - 1 == group["num_steps"]:
                self._say_once(
                    f"num_steps is the planned number of steps, which a rule anneals over; got {group['num_steps']}, "
                    "and a step beyond them: plan as many as are taken, or leave num_steps out",
                    about="num_steps",
                )
        horizon = _longest_horizon(rule)
        taken = max(group["steps_taken"] for group in groups)
        if horizon is not None and taken == FAR * horizon + 1:
            warn(
                f"the rule {title!r} was meta-trained on runs of up to {horizon} steps; this one has "
                f"taken {taken}: compare with a tuned Adam, or meta-train on longer horizons"
            )

    def _say_once(self, message: str, *, about: str) -> None:
        if about not in self._said:
            self._said.add(about)
            warn(message)


def _longest_horizon(rule: UpdateRule) -> int | None:
    """Return the longest run that a rule was meta-trained on, from its card: ``100`` or ``100..2000:growing``."""
    found = re.findall(r"\d+", str((rule.card or {}).get("horizon", "")))
    return max(map(int, found)) if found else None


def warn(message: str) -> None:
    """Warn at the user's line, from which torch's own frames around a step lead here."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("l2l_opt", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
