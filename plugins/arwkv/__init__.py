"""Transformer blocks whose attention is RWKV-7's time mixing: what a distilled Transformer is."""
