"""CosyVoice2's vocoder: mel spectrograms to audio."""
