"""The command line: one file per verb; each verb's heavy imports happen when it runs."""
