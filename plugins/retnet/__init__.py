"""RetNet's retention."""
