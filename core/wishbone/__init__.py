"""Text to speech with exchangeable parts."""
