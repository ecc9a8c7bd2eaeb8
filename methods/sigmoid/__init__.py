"""One sigmoid per category: the base model of BALMS."""
