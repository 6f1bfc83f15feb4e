"""The contracts of Wishbone and the machine that drives them. Knows no plug-in by name.

Letters, used everywhere with these meanings:

B batch   T positions   D width   H heads   K, V key and value size of one head
Q codebooks   X size of a vocabulary (ids a table or a head knows)   S audio samples
"""

if __name__ != "wishbone.core":
    raise ImportError(f"import this as wishbone.core, not {__name__}: run 'pip install -e .' first")
