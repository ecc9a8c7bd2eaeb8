"""Balanced Meta-Softmax: balanced sigmoids and a learned re-weighting of categories."""
