"""Gumbel Optimized Loss: DropLoss with a Gumbel link, and the recipe around it."""
