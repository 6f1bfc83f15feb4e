"""Audio files and pitch."""
