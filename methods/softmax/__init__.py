"""Softmax cross entropy over categories and background."""
