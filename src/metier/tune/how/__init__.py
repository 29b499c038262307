"""How the change of weights is parameterised."""
