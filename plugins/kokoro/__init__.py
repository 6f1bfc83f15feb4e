"""A teacher with several voices: Kokoro-82M, reading English from our phonemes."""
