"""Softmax cross entropy with class weights: the re-weighting rows of the BAGS table."""
