"""Pattention: a feed-forward part that attends to learned keys, and can be given more of them."""
