"""Methods that change weights by training: where (which parameters move) and how (how the change is parameterised)."""
