"""Forced alignment of recordings and their text: ``wishbone data align``."""
