"""Weights in files: reading, writing, provenance and fingerprints."""
