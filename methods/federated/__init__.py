"""Federated loss."""
