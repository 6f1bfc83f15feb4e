"""Speed of every token mixer in a stack, beside RWKV-7."""
