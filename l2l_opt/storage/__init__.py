"""Files: rules, checkpoints, and what may be read of a file that nobody vouches for."""

from l2l_opt.storage.imported_weights import import_weights

__all__ = ["import_weights"]
