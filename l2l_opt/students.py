"""A batch of students: how they are started, fed, followed over windows and started again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules.base import UpdateRule
from l2l_opt.schedules import Horizon
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.types import Batch, Params, TaskData
from l2l_opt.unroll import InnerState, unroll


class Students:
    """S students of one family, each living through one episode (fresh params to horizon) after the other.

    All that is random about a student comes from a generator seeded by (seed, stream, student number, episode), so it
    does not depend on the students beside it, nor on the rule.

    Args:
        rule: the teacher, which says what state a student starts with.
        family: the students' architecture.
        numbers: the students' numbers.
        horizon: inner steps an episode.
        seed: of the run.
        stream: what these students are for.

    Attributes:
        inner: where they stand, leading axis S.
        data: what varies between them, leading axis S.
        initial_losses: ``[S]``, the first training loss of each one's episode; NaN before it is known.
        ages: inner steps each has done in its episode.
    """

    def __init__(
        self,
        rule: UpdateRule,
        family: TaskFamily,
        *,
        numbers: Sequence[int],
        horizon: Horizon,
        seed: int,
        stream: Stream,
    ):
        if not numbers:
            raise ValueError("there must be at least one student; got none, use --students 1 or more")
        self.rule, self.family, self.horizon, self.seed, self.stream = rule, family, horizon, seed, stream
        self.numbers = list(numbers)
        self.episodes = [0] * len(numbers)
        self.ages = [0] * len(numbers)
        fresh = [self._start(index) for index in range(len(numbers))]
        self.generators = [generator for generator, *_ in fresh]
        self.horizons = [horizon for _, horizon, *_ in fresh]
        self.pending = [batch for *_, batch in fresh]
        self.data: TaskData = _stack([data for _, _, data, _, _ in fresh])
        params: Params = _stack([params for _, _, _, params, _ in fresh])
        state = _stack([rule.init_state(params) for _, _, _, params, _ in fresh])
        like = next(iter(params.values()))
        self.inner = InnerState(params, state, torch.tensor(self.horizons, dtype=torch.float32, device=like.device))
        self.initial_losses = torch.full((len(numbers),), torch.nan, dtype=like.dtype, device=like.device)

    def _start(self, index: int) -> tuple[torch.Generator, int, TaskData, Params, Batch]:
        generator = make_generator(self.seed, self.stream, self.numbers[index], self.episodes[index])
        horizon = self.horizon.draw(generator)
        data = self.family.sample(generator)
        params = self.family.init_params(data, generator)
        return generator, horizon, data, params, self.family.sample_batch(data, generator)

    def window(self, length: int) -> list[Batch]:
        """The next ``length + 1`` batches, each leaf ``[S, ...]``; the last is kept as the first of the next window."""
        drawn = []
        for index, generator in enumerate(self.generators):
            data = tree_map(lambda leaf, i=index: leaf[i], self.data)
            batches = [self.family.sample_batch(data, generator) for _ in range(length)]
            drawn.append([self.pending[index], *batches])
            self.pending[index] = batches[-1]
        return [_stack(list(step)) for step in zip(*drawn, strict=True)]

    def initial_losses_given(self, losses: Tensor) -> Tensor:
        """``initial_losses`` with those filled in that a window's first losses reveal: ``[S]``."""
        fresh = torch.tensor([age == 0 for age in self.ages], device=losses.device)
        return torch.where(fresh, losses[0].detach().to(self.initial_losses.dtype), self.initial_losses)

    def advance(self, inner: InnerState, losses: Tensor) -> None:
        """Take the students to where a window has left them; start those anew that are done or no longer finite.

        Args:
            inner: as ``unroll`` returned it.
            losses: ``[K + 1, S]``, likewise.
        """
        losses = losses.detach()
        self.inner = inner.detach()
        length = losses.shape[0] - 1
        self.initial_losses = self.initial_losses_given(losses)
        finite = torch.isfinite(losses).all(dim=0).tolist()
        for index in range(len(self.numbers)):
            self.ages[index] += length
            if self.ages[index] >= self.horizons[index] or not finite[index]:
                self._restart(index)

    def _restart(self, index: int) -> None:
        self.episodes[index] += 1
        self.ages[index] = 0
        generator, horizon, data, params, batch = self._start(index)
        self.generators[index], self.horizons[index], self.pending[index] = generator, horizon, batch
        assert self.inner.num_steps is not None
        place = (self.data, self.inner.params, self.inner.state)
        self.data, new_params, new_state = tree_map(
            lambda old, new: torch.cat([old[:index], new.unsqueeze(0), old[index + 1 :]]),
            place,
            (data, params, self.rule.init_state(params)),
        )
        num_steps = self.inner.num_steps.clone()
        num_steps[index] = horizon
        self.inner = InnerState(new_params, new_state, num_steps)
        self.initial_losses[index] = torch.nan

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit; shares no storage that later steps would change."""
        return {
            "episodes": list(self.episodes),
            "ages": list(self.ages),
            "horizons": list(self.horizons),
            "generators": [generator.get_state() for generator in self.generators],
            "pending": list(self.pending),
            "data": self.data,
            "params": self.inner.params,
            "state": self.inner.state,
            "num_steps": self.inner.num_steps,
            "initial_losses": self.initial_losses.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.initial_losses.device
        state = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, state)
        self.episodes, self.ages, self.horizons = list(state["episodes"]), list(state["ages"]), list(state["horizons"])
        for generator, value in zip(self.generators, state["generators"], strict=True):
            generator.set_state(value.cpu())
        self.pending = list(state["pending"])
        self.data = state["data"]
        self.inner = InnerState(state["params"], state["state"], state["num_steps"])
        self.initial_losses = state["initial_losses"].clone()


def _stack(trees: list[Any]) -> Any:
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)


def training_losses(
    rule: UpdateRule,
    family: TaskFamily,
    *,
    numbers: Sequence[int],
    horizon: int,
    seed: int,
    stream: Stream,
    phi: Mapping[str, Tensor] | None = None,
    window_length: int = 50,
) -> Tensor:
    """Train students through one whole episode, without a graph.

    Args:
        rule: the teacher.
        family: the students' architecture.
        numbers: the students' numbers; a number may come twice, for two rules on the very same student and batches.
        horizon: inner steps.
        seed: of the students.
        stream: what they are for.
        phi: the rule's weights, shared or one set a student; the rule's own where None.
        window_length: inner steps whose batches are held in memory at once.

    Returns:
        ``[horizon, S]``, the training loss before each step, on the CPU.
    """
    students = Students(rule, family, numbers=numbers, horizon=Horizon(horizon, horizon), seed=seed, stream=stream)
    inner = students.inner
    device = next(iter(inner.params.values())).device
    rule.to(device)
    phi = None if phi is None else {name: weight.to(device) for name, weight in phi.items()}
    curves = []
    with torch.no_grad():
        for start in range(0, horizon, window_length):
            batches = students.window(min(window_length, horizon - start))
            inner, losses = unroll(rule, family, students.data, inner, batches, phi=phi)
            curves.append(losses[:-1])
    return torch.cat(curves).cpu()


def final_losses(curves: Tensor) -> Tensor:
    """The mean training loss of the last 10 % of the steps, at least 10: ``[horizon, S]`` -> ``[S]``."""
    return curves[-max(10, curves.shape[0] // 10) :].mean(dim=0)
