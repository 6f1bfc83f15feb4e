"""A backbone of blocks whose halves are parts of their own: any mixer, any feed-forward part."""
