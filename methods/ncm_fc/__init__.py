"""Nearest class mean on box-head features: a comparison row of the BAGS table."""
