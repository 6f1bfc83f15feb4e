"""RWKV-4: a weighted mean of the past in every channel, and the channel mixing of RWKV-4."""
