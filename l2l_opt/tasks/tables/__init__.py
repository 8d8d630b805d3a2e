"""Students that learn rows of a table."""

from l2l_opt.tasks.tables import ratings, recommendation, small_tables

__all__ = ["ratings", "recommendation", "small_tables"]
