"""Independent sigmoids over categories and background."""
