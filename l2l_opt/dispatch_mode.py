"""Watching operations as they are called, without loading torch's compiler."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """A ``TorchDispatchMode`` for eager code: its subclasses see every operation inside it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch would otherwise import its compiler, for over a second, to keep it from what is called here.
        return False
