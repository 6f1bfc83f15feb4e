"""Hyena: long convolutions whose filters a small network writes, between gates."""
