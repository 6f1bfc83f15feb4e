"""From a text to audio: the path of a token."""
