"""Students that learn rows of a table."""

from l2l_opt.tasks.tables import own_table, ratings, recommendation, small_tables

__all__ = ["own_table", "ratings", "recommendation", "small_tables"]
