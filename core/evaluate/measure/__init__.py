"""Measurements of one system: speech, speed, losses, speaker identity."""
