"""Methods that change what the model computes."""
