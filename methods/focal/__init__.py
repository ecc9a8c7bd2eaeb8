"""Focal loss over categories and background: two comparison rows of the BAGS table."""
