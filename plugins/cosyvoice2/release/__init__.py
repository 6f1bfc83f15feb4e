"""CosyVoice2's public release: its files and settings."""
