"""Instance-aware repeat factor sampling."""
