"""RWKVTTS: an RWKV-7 where CosyVoice2 or Spark-TTS has a Transformer (yynil/RWKVTTS)."""
