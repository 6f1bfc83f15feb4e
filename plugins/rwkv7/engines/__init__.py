"""Faster ways to the numbers of ``plugins/rwkv7/backbone.py``."""
