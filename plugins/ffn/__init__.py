"""Feed-forward parts of a block: they see one position, or a few, and most remember nothing."""
