"""When something that comes with a point is due."""


class Cadence:
    """At least so many steps apart.

    Args:
        every: steps; 0 for never.
        name: of the option, for the sentence that refuses it.

    Raises:
        ValueError: below 0.
    """

    def __init__(self, every: int, name: str):
        if every < 0:
            raise ValueError(f"{name} must be at least 0; got {every}, use 0 for none")
        self.every, self._next = every, 0

    def is_due(self, step: int) -> bool:
        """Whether it is due."""
        return self.every > 0 and step >= self._next

    def due(self, step: int) -> bool:
        """Whether it is due; where it is, it is not again until ``every`` steps later."""
        if not self.is_due(step):
            return False
        self._next = step + self.every
        return True
