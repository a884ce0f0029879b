"""Formulas: ``y ~ x + C(group)``, learned from one table, applied to others, kept as JSON."""

from neglog.formula.design import Design, Learned, check_columns, learn

__all__ = ["Design", "Learned", "check_columns", "learn"]
