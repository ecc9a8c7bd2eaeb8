"""Effective class-margin loss."""
