"""One decoding position of a Transformer: attention to a cache, and what surrounds it."""
