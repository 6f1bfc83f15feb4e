"""Contenders for ``wishbone bench``: a release beside the public code, and the flow of a stream."""
