"""When something is due that takes time of the run it measures."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """A share of the time since it was made.

    Args:
        share: of the time; None for no limit.

    Attributes:
        spent: seconds, so far.
    """

    def __init__(self, share: float | None):
        self.share, self.spent = share, 0.0
        self._begun = time.perf_counter()

    def left(self) -> float:
        """Seconds that may be spent now; below zero where too much was."""
        if self.share is None:
            return math.inf
        return self.share * (time.perf_counter() - self._begun) - self.spent

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Charge what is done inside."""
        begun = time.perf_counter()
        yield
        self.spent += time.perf_counter() - begun


class Cadence:
    """At least so many steps apart, and not before there is time for it.

    Args:
        every: steps; 0 for never.
        name: of the option, for the sentence that refuses it.
        share: of the run's time that it may take; None for no limit.
        seconds: that it is expected to take.

    Raises:
        ValueError: below 0.
    """

    def __init__(self, every: int, name: str, *, share: float | None = None, seconds: float = 0.0):
        if every < 0:
            raise ValueError(f"{name} must be at least 0; got {every}, use 0 for none")
        self.every, self.seconds, self.budget = every, seconds, Budget(share)
        self._next = 0

    def is_due(self, step: int) -> bool:
        """Whether it is due."""
        return self.every > 0 and step >= self._next and self.budget.left() >= self.seconds

    def expect(self, seconds: float) -> None:
        """Lower what it is expected to take, where it was never taken yet."""
        if not self._next:
            self.seconds = min(self.seconds, seconds)

    @contextmanager
    def taken(self, step: int) -> Iterator[None]:
        """Do inside what was due; it is not again until ``every`` steps later."""
        self._next = step + self.every
        before = self.budget.spent
        with self.budget.spending():
            yield
        self.seconds = self.budget.spent - before
