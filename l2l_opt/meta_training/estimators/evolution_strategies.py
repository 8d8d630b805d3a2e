"""Evolution strategies: meta-gradients from differences of losses, of the objective smoothed by Gaussian noise.

    L_sigma(phi) = E L(phi + eps),   eps ~ N(0, sigma^2 I)
    d L_sigma / d phi = E (L(phi + eps) - L(phi - eps)) eps / (2 sigma^2)

Nothing is differentiated, so chaos in a long unroll cannot blow the estimate up, and memory does not depend on the
horizon. A student is an antithetic pair of particles with the same fresh params and batches, under phi + eps and
phi - eps; all particles of all students of one architecture are one batch of the unroll, each with its own phi. With
windows of K steps, of which an outer step takes one, the estimators differ in the noise of window w of an inner run:

    full-es   one outer step is a whole inner run                eps for all of it
    pes       eps_w drawn for each window,                       times eps_1 + ... + eps_w
    nres      eps drawn once for the inner run,                  times eps

The estimates of an inner run's windows sum to that of the whole: of full-es and nres exactly, of pes on average.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from l2l_opt.inner_loop.student import Student, Window
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.unroll import InnerState, unroll
from l2l_opt.meta_training.estimators.base import ESTIMATORS, MetaGradient, MetaGradientEstimator
from l2l_opt.meta_training.estimators.pairs import BALANCES, Pairs
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules.base import UpdateRule
from l2l_opt.types import Params


@dataclass(kw_only=True, eq=False)
class EvolutionStrategy(MetaGradientEstimator):
    """What the three have in common: antithetic pairs in one batched unroll.

    Attributes:
        horizon, truncation_length, staggered, group_size: as of every estimator; a student is a pair.
        meta_loss: the objective, best with ``clip``, since a particle may diverge.
        sigma: deviation of the noise, in the weights' unit.
        only: weights that are learned, by the beginnings of their names with ``|`` between them, e.g.
            ``"readout|choices.bias"``; all where empty. The signal of an estimate falls with the number of
            weights that noise is on, so it pays to learn few before many.
        balance: how much a pair counts beside others, for mixtures: ``"none"``, as much as its losses differ, so that
            the few pairs of architectures that memorise their data decide; ``"ranks"``, by the rank of that among the
            pairs of its architecture; ``"sign"``, only which particle is better. With the last two the meta-gradient
            has no unit.
        learned: a pair no longer counts while the losses of both particles are below this share of the first loss; 0
            where all count.

    Raises:
        ValueError: a truncation length that is longer than the horizon or does not divide it; a sigma that is not
            positive; an unknown balance; a share outside of 0 to 1.

    Source: signs and scaled differences, a task at a time: arXiv 2211.09760, section 3.
    """

    num_particles: ClassVar[int] = 2

    sigma: float = 0.01
    only: str = ""
    balance: str = "none"
    learned: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance not in BALANCES:
            raise ValueError(f"balance must be one of {', '.join(BALANCES)}; got {self.balance!r}, use one of these")
        if not (isinstance(self.learned, (int, float)) and 0 <= self.learned < 1):
            raise ValueError(f"learned must lie in [0, 1); got {self.learned!r}, use e.g. 0.01, or 0 where all count")
        if not (isinstance(self.sigma, (int, float)) and 0 < self.sigma < float("inf")):
            raise ValueError(f"sigma must be a positive number; got {self.sigma!r}, use e.g. 0.01")

    def draw_noise(self, phi: Params, students: Students, student: Student) -> Params:
        """Draw eps of the deviation sigma for what starts at the student's inner step: ``[*weight.shape]`` each."""
        generator = make_generator(
            students.seed, Stream.EVOLUTION, student.number, student.inner_run, student.attempt, student.inner_step
        )
        if not any(self.learns(name) for name in phi):
            raise ValueError(f"only must begin names of weights; got {self.only!r}, use some of {', '.join(phi)}")
        return {
            name: self.sigma * torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
            if self.learns(name)
            else torch.zeros_like(weight)
            for name, weight in phi.items()
        }

    def learns(self, name: str) -> bool:
        """Whether the weight of this name is learned."""
        return not self.only or name.startswith(tuple(filter(None, self.only.split("|"))))

    def run_pairs(
        self, rule: UpdateRule, phi: Params, window: Window, noise: list[Params]
    ) -> tuple[InnerState, Tensor]:
        """Unroll a window under phi + eps and phi - eps: where all particles stand then, and losses ``[K + 1, 2 G]``.

        Args:
            rule: the update rule.
            phi: its weights.
            window: of G students.
            noise: eps of each student.
        """
        particles = {
            name: torch.stack([weight + sign * eps[name] for eps in noise for sign in (1, -1)])
            for name, weight in phi.items()
        }
        return unroll(
            rule,
            window.family,
            window.data,
            window.inner,
            window.batches,
            phi=particles,
            loss_batches=window.loss_batches,
            compiled=self.compiled,
        )

    @abc.abstractmethod
    def pairs(self, rule: UpdateRule, students: Students) -> Pairs:
        """Take all pairs one outer step further, and return what they found; the students are moved on in place."""

    @torch.no_grad()
    def estimate(self, rule: UpdateRule, students: Students) -> tuple[MetaGradient, Students]:
        pairs = self.pairs(rule, students)
        return MetaGradient(self.gradient(pairs), pairs.values.mean(), pairs.losses), students

    def slopes(self, pairs: Pairs) -> Tensor:
        """``(L_+ - L_-) / (2 sigma^2)`` of each pair, ``[S]``, as much as it counts."""
        return pairs.differences(self.balance, learned=self.learned) / (2 * self.sigma**2)

    def gradient(self, pairs: Pairs) -> Params:
        """``mean over students of (L_+ - L_-) direction / (2 sigma^2)``."""
        slopes, directions = self.slopes(pairs) / len(pairs.directions), pairs.directions
        return {
            name: torch.tensordot(slopes.to(like), torch.stack([direction[name] for direction in directions]), dims=1)
            for name, like in directions[0].items()
        }


class _WindowedEvolution(EvolutionStrategy):
    """An outer step is one window of every student."""

    @abc.abstractmethod
    def perturb(self, phi: Params, students: Students, student: Student) -> tuple[Params, Params]:
        """Return eps of the student's next window, and what the difference of its pair is multiplied by."""

    def pairs(self, rule: UpdateRule, students: Students) -> Pairs:
        phi = {name: weight.detach() for name, weight in rule.named_parameters()}
        noise, directions = zip(*(self.perturb(phi, students, member) for member in students.members), strict=True)
        members = list(students.members)
        values = torch.empty(len(students), 2, dtype=torch.float64)
        shares = torch.empty(len(students), dtype=torch.float64)
        all_losses = torch.empty(self.truncation_length + 1, len(students), 2, dtype=torch.float64)
        for window in students.windows(self.truncation_length):
            inner, losses = self.run_pairs(rule, phi, window, [noise[index] for index in window.indices])
            initial_losses = window.known_initial_losses(losses)
            per_particle = self.meta_loss.per_student(losses, initial_losses, window.best_losses, window.progress)
            values[window.indices] = per_particle.reshape(-1, 2).double().cpu()
            shares[window.indices] = _greater_share(losses, initial_losses)
            all_losses[:, window.indices] = losses.reshape(len(losses), -1, 2).double().cpu()
            students.advance(window, inner, losses)
        students.restart(all_losses.flatten(1), spare_diverged=self.meta_loss.clip is not None)
        return Pairs(
            values=values,
            losses=all_losses.flatten(1),
            shares=shares,
            directions=directions,
            students=members,
        )


def _greater_share(losses: Tensor, initial_losses: Tensor) -> Tensor:
    """Of each pair the greater last loss over the first one, ``[S]``; infinite where one is not finite."""
    share = (losses[-1] / initial_losses.to(losses)).nan_to_num(nan=torch.inf).reshape(-1, 2)
    return share.amax(1).double().cpu()


class PES(_WindowedEvolution):
    """Persistent evolution strategies: fresh noise every window, multiplied by the sum of an inner run's noises so far.

    Unbiased (but for the smoothing), with a variance that grows with the number of windows of an inner run.

    Source: arXiv 2112.13835, algorithm 2.
    """

    def perturb(self, phi: Params, students: Students, student: Student) -> tuple[Params, Params]:
        noise = self.draw_noise(phi, students, student)
        so_far = student.estimator_state or {name: torch.zeros_like(eps) for name, eps in noise.items()}
        student.estimator_state = {name: so_far[name] + eps for name, eps in noise.items()}
        return noise, student.estimator_state


class NRES(_WindowedEvolution):
    """Noise-reuse evolution strategies: one noise for all windows of an inner run.

    Unbiased (but for the smoothing) as PES is, with a variance that does not grow with the number of windows.

    Source: arXiv 2304.12180, algorithm 1.
    """

    def perturb(self, phi: Params, students: Students, student: Student) -> tuple[Params, Params]:
        student.estimator_state = student.estimator_state or self.draw_noise(phi, students, student)
        return student.estimator_state, student.estimator_state


class FullES(EvolutionStrategy):
    """Full evolution strategies: an outer step is one whole inner run of every student, cut into windows.

    Source: arXiv 1810.10180, section 4.1.
    """

    def default_group_size(self, num_students: int) -> int:
        # One horizon for all, so that all particles are one batch to the end of the inner run.
        return num_students

    def pairs(self, rule: UpdateRule, students: Students) -> Pairs:
        phi = {name: weight.detach() for name, weight in rule.named_parameters()}
        noise = [self.draw_noise(phi, students, student) for student in students.members]
        members = list(students.members)
        curves: list[list[Tensor]] = [[] for _ in noise]
        while running := [index for index, one in enumerate(students.members) if one.inner_step < one.run_length]:
            for window in students.windows(self.truncation_length, running):
                inner, losses = self.run_pairs(rule, phi, window, [noise[index] for index in window.indices])
                for index, own in zip(window.indices, losses.reshape(len(losses), -1, 2).unbind(1), strict=True):
                    curves[index].append(own[1:] if curves[index] else own)
                students.advance(window, inner, losses)
        runs = [torch.cat(curve) for curve in curves]
        all_losses = torch.nn.utils.rnn.pad_sequence(runs, padding_value=torch.nan).double().cpu().flatten(1)
        students.restart(all_losses)
        return Pairs(
            values=torch.stack([self.meta_loss.per_student(losses, losses[0]) for losses in runs]).double().cpu(),
            losses=all_losses,
            shares=torch.cat([_greater_share(losses, losses[0]) for losses in runs]),
            directions=noise,
            students=members,
        )


ESTIMATORS.register("full-es", FullES)
ESTIMATORS.register("pes", PES)
ESTIMATORS.register("nres", NRES)
