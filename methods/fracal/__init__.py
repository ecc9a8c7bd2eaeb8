"""FRACAL: fractal calibration."""
