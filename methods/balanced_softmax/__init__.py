"""Per-category sigmoids with logits balanced by image frequency."""
