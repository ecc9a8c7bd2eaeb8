"""LogN: logit normalisation."""
