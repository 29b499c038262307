"""Methods that change what the model reads: instructions, exemplars, soft prompts."""
