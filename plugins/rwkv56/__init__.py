"""RWKV-5.2 "Eagle" and RWKV-6 "Finch" (arXiv 2404.05892)."""
