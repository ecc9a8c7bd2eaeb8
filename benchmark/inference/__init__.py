"""Detections: predicting, storing, converting. Importing the package does not import torch."""
