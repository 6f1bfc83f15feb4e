"""Memories corrected by the delta rule: DeltaNet, Gated DeltaNet and Kimi Delta Attention."""
