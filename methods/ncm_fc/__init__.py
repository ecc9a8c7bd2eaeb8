"""Nearest class mean on box-head or pooled features: comparison rows of the BAGS table."""
