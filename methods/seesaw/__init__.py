"""Seesaw loss."""
