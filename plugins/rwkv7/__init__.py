"""RWKV-7 as a backbone, and the way to and from its checkpoints elsewhere."""
