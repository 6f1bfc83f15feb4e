"""ROSA of RWKV-8: what came after the longest earlier match of the latest bits."""
