"""CosyVoice2's public release: its tokenizers, language model, flow decoder and vocoder."""
