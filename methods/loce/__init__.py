"""LOCE: equilibrium loss."""
