"""mergekit's recipes, run here: what a YAML file asks for is read, checked as a whole, and merged by our own merges."""

from metier.merge.mergekit.job import Job, prepare

__all__ = ["Job", "prepare"]
