"""Meta-State: a feed-forward part that is a memory of what the mixer's memory answers."""
