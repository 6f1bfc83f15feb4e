"""Faster ways to the numbers of ``plugins/stack/backbone.py``."""
