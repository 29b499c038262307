"""Merging: one change from several, one file for each way."""
