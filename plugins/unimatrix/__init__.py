"""UniMatrix-Core."""
