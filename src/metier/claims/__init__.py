"""Papers' claims, measured here: one file each, read without importing it. Papers: what of the literature exists."""
