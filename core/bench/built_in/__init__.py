"""Contenders that Wishbone itself brings to a benchmark."""
