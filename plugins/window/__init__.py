"""Sliding-window attention: a cache that does not grow."""
