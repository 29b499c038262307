"""Methods that fetch what the model reads."""
