"""Inverse image frequency."""
