"""CosyVoice2's flow: codes to mel spectrograms."""
