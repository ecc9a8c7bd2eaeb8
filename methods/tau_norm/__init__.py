"""Classifier weights rescaled after training: two comparison rows of the BAGS table."""
