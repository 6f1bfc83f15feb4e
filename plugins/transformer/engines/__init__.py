"""Faster ways to the numbers of ``plugins/transformer/backbone.py``."""
