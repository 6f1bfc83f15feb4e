"""DeepEmbed of RWKV-7a: a feed-forward part that what is being read changes from inside."""
