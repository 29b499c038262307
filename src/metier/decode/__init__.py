"""Methods that change what comes out."""
