"""Sets of prompts: lists of other projects, kinds of sentences, and what training saw of them."""
