"""Students that learn rows of a table."""


__all__ = ["clicks", "generated_tables", "ratings", "recommendation", "small_tables"]
__all__ = ["own_table", "ratings", "recommendation", "small_tables"]
from l2l_opt.tasks.tables import clicks, generated_tables, ratings, recommendation, small_tables
from l2l_opt.tasks.tables import own_table, ratings, recommendation, small_tables
