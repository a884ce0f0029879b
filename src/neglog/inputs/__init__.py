"""Inputs: formulas, tables and roles of columns → arrays, and what a fit learned of them."""
