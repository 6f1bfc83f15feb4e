"""Corpora of other projects, read as they are."""
