"""Cross entropy over categories and background with a Gumbel link."""
