"""Experiments, datasets, detectors and methods as YAML: models, discovery, resolution to runs."""
