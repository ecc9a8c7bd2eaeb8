"""Classifier re-training (cRT) and learnable weight scaling (LWS)."""
