"""One set of weights for text and speech: PiSSA (arXiv:2404.02948) beside an untouched base."""
