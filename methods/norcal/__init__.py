"""NorCal: post-processing calibration."""
