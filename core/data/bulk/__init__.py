"""Speech from long lists: items that are read, spoken in parts, and gathered."""
