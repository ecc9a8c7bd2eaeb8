"""Adaptive class suppression loss."""
