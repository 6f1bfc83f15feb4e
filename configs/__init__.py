"""Configurations, voices and weights that ship with Wishbone: data only."""
