"""Contracts of what stands around a system: data, training, measuring, commands."""
