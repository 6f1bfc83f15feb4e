"""Attention whose query does not change with the position: weighted means of all values so far."""
