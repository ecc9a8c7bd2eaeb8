"""Equalization loss, as released with GOL."""
