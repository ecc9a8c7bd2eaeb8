"""Reconciling object-level and global-level objectives (ROG)."""
