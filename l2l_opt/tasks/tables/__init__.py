"""Students that learn rows of a table."""

from l2l_opt.tasks.tables import clicks, generated_tables, own_table, ratings, recommendation, small_tables

__all__ = ["clicks", "generated_tables", "own_table", "ratings", "recommendation", "small_tables"]
