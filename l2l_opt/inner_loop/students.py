"""Students: how they are started, fed, followed over windows and reset.

They are kept one by one, so that each may have an architecture of its own, and run together: those of one architecture
are a batch of the unroll. For evolution strategies a student is several particles: one inner run (same fresh params,
same batches) under several phi.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from l2l_opt.checks import check_positive_integers
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.student import Student, Window
from l2l_opt.inner_loop.unroll import InnerState
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.base import Split, TaskFamily
from l2l_opt.tasks.drawing import left_on_host, moved, sent
from l2l_opt.tasks.mixture import TaskMixture, Tasks, draw_family
from l2l_opt.types import Batch


class Students:
    """S students, each taken through one inner run after the other.

    All that is random about a student comes from a generator seeded by (seed, stream, student number, inner run), so it
    does not depend on the students beside it, nor on the rule. Students of one group (``number // group_size``) share
    architecture and horizon in every inner run, so that they run as one batch.

    Args:
        rule: the update rule, which sets the state that a student starts with.
        tasks: where students come from.
        numbers: the students' numbers.
        horizon: inner steps an inner run.
        seed: of the run.
        stream: what these students are for.
        num_particles: copies of each student, each under a phi of its own.
        group_size: students that share an architecture; 1 for a single family and all for a mixture where None.
        staggered: end first inner runs at a random step, so that students are not reset all together ever after.
        loss_on: the split whose losses are the meta-loss.

    Attributes:
        progress: fraction of the planned outer steps that are done; growing horizons follow it.
        coordinate_steps: updates of single coordinates so far, of all particles.
    """

    def __init__(
        self,
        rule: UpdateRule,
        tasks: Tasks,
        *,
        numbers: Sequence[int],
        horizon: Horizon,
        seed: int,
        stream: Stream,
        num_particles: int = 1,
        group_size: int | None = None,
        staggered: bool = False,
        loss_on: Split = "train",
    ):
        if not numbers:
            raise ValueError("there must be at least one student; got none, use --students 1 or more")
        if group_size is not None:
            check_positive_integers(1, group_size=group_size)
        self.rule, self.tasks, self.horizon, self.seed, self.stream = rule, tasks, horizon, seed, stream
        self.num_particles, self.staggered, self.loss_on = num_particles, staggered, loss_on
        default = max(numbers) + 1 if isinstance(tasks, TaskMixture) else 1
        self.group_size = default if group_size is None else group_size
        self.progress, self.coordinate_steps = 0.0, 0
        self.members = [self._start(number, 0, 0) for number in numbers]

    def __len__(self) -> int:
        return len(self.members)

    def _start(self, number: int, inner_run: int, attempt: int) -> Student:
        family, horizon, run_length = self._draw_group(number // self.group_size, inner_run)
        generator = make_generator(self.seed, self.stream, number, inner_run, *([attempt] if attempt else []))
        data = family.sample(generator)
        params = family.init_params(data, generator)
        with left_on_host():
            pending: dict[Split, Batch] = {"train": family.sample_batch(data, generator)}
            if self.loss_on == "test":
                pending["test"] = family.sample_batch(data, generator, "test")
        state = self.rule.init_state(params)
        like = next(iter(params.values()))
        num_steps = torch.tensor(float(horizon), dtype=torch.float32, device=like.device)
        places = tree_map(self._particles, (params, state, num_steps))
        unknown = like.new_full((self.num_particles,), torch.nan)
        return Student(
            number=number,
            inner_run=inner_run,
            attempt=attempt,
            inner_step=0,
            horizon=horizon,
            run_length=run_length,
            family=family,
            generator=generator,
            data=data,
            inner=InnerState(*places),
            pending=pending,
            initial_losses=unknown,
            best_losses=torch.full_like(unknown, torch.inf),
        )

    def _draw_group(self, group: int, inner_run: int) -> tuple[TaskFamily, int, int]:
        generator = make_generator(self.seed, Stream.GROUP, int(self.stream), group, inner_run)
        family = draw_family(self.tasks, generator)
        horizon = run_length = self.horizon.draw(generator, progress=self.progress)
        if self.staggered and inner_run == 0:
            windows = max(horizon // self.horizon.multiple, 1)
            run_length = self.horizon.multiple * int(torch.randint(1, windows + 1, (), generator=generator))
        return family, horizon, run_length

    def _particles(self, value: Tensor) -> Tensor:
        return value.unsqueeze(0).expand(self.num_particles, *value.shape)

    def windows(self, length: int, among: Sequence[int] | None = None) -> Iterator[Window]:
        """Yield the next ``length`` inner steps of every student, one batch for each architecture.

        Each window must be given back to ``advance``.

        Args:
            length: inner steps.
            among: places of the students to run; all where None.
        """
        by_family: dict[int, list[int]] = {}
        for index in range(len(self.members)) if among is None else among:
            by_family.setdefault(id(self.members[index].family), []).append(index)
        for indices in by_family.values():
            yield self._window(indices, length)

    def _window(self, indices: list[int], length: int) -> Window:
        members = [self.members[index] for index in indices]
        device = members[0].initial_losses.device
        drawn: dict[Split, list[list[Batch]]] = {}
        for student in members:
            for split, own in student.next_batches(length).items():
                drawn.setdefault(split, []).append(own)
        stacked = {
            split: self._repeat(moved([_stack(list(step)) for step in zip(*of_students, strict=True)], device))
            for split, of_students in drawn.items()
        }
        places = [(student.inner.params, student.inner.state, student.inner.num_steps) for student in members]
        best_losses = torch.cat([student.best_losses for student in members])
        inner_steps = torch.tensor([student.inner_step for student in members], dtype=best_losses.dtype)
        return Window(
            family=members[0].family,
            indices=indices,
            data=self._repeat(_stack([student.data for student in members])),
            inner=InnerState(*tree_map(lambda *leaves: torch.cat(leaves), *places)),
            batches=stacked["train"],
            loss_batches=None if self.loss_on == "train" else stacked[self.loss_on],
            initial_losses=torch.cat([student.initial_losses for student in members]),
            best_losses=best_losses,
            inner_steps=self._repeat(sent(inner_steps, device)),
        )

    def _repeat(self, tree: Any) -> Any:
        if self.num_particles == 1:
            return tree
        return tree_map(lambda leaf: leaf.repeat_interleave(self.num_particles, dim=0), tree)

    def advance(self, window: Window, inner: InnerState, losses: Tensor) -> None:
        """Take the students of a window to where it has left them.

        Args:
            window: as ``windows`` gave it.
            inner: as ``unroll`` returned it.
            losses: ``[K + 1, S]``, likewise.
        """
        losses, inner = losses.detach(), inner.detach()
        self.coordinate_steps += (losses.shape[0] - 1) * sum(param.numel() for param in inner.params.values())
        initial = window.known_initial_losses(losses)
        best = torch.fmin(window.best_losses, losses[1:].to(initial.dtype).nan_to_num(nan=torch.inf).amin(dim=0))
        particles = self.num_particles
        for place, index in enumerate(window.indices):
            own = slice(place * particles, (place + 1) * particles)
            student = self.members[index]
            student.inner = InnerState(
                *tree_map(lambda leaf, own=own: leaf[own], (inner.params, inner.state, inner.num_steps))
            )
            student.initial_losses, student.best_losses = initial[own], best[own]
            if inner.data is not None:
                student.data = tree_map(lambda leaf, place=own.start: leaf[place], inner.data)
            student.inner_step += losses.shape[0] - 1

    def restart(self, losses: Tensor, *, spare_diverged: bool = False) -> None:
        """Reset the students whose inner run is over, and those that are no longer finite.

        A student that is not finite is reset within its inner run and ends with it, so that its group stays together.

        Args:
            losses: ``[K + 1, S]`` of the last windows of all students, in their order.
            spare_diverged: keep students of which one particle at least is finite.
        """
        finite = torch.isfinite(losses).all(dim=0).reshape(len(self), self.num_particles)
        alive = (finite.any(dim=1) if spare_diverged else finite.all(dim=1)).tolist()
        for index, student in enumerate(self.members):
            if student.inner_step >= student.run_length:
                self.members[index] = self._start(student.number, student.inner_run + 1, 0)
            elif not alive[index]:
                fresh = self._start(student.number, student.inner_run, student.attempt + 1)
                fresh.inner_step = student.inner_step
                fresh.horizon, fresh.run_length = student.horizon, student.run_length
                self.members[index] = fresh

    def state_dict(self) -> list[dict[str, Any]]:
        """All that is needed to go on bit for bit, student by student; shares no storage that later steps change."""
        return [student.state_dict() for student in self.members]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take each student's state from those of a run, by number; there may be more than are here.

        Raises:
            ValueError: a student of whom nothing is known.
        """
        known = {own["number"]: own for own in state}
        for index, student in enumerate(self.members):
            if student.number not in known:
                raise ValueError(
                    f"a checkpoint must hold every student; got none of number {student.number}, "
                    "use as many students as the run was started with"
                )
            own = known[student.number]
            family, _, _ = self._draw_group(student.number // self.group_size, own[Student.STORED["inner_run"]])
            self.members[index] = Student.of_state(own, family, device=student.initial_losses.device)


def _stack(trees: list[Any]) -> Any:
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)
