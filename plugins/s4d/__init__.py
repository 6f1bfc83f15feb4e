"""S4D: diagonal state spaces whose parameters do not change with the position."""
