"""Prediction, storage and conversion of detections. Importing the package does not import torch."""
