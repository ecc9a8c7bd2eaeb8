"""Equalization loss v2."""
