"""Balanced Group Softmax."""
