"""Logit adjustment, in training or in testing."""
