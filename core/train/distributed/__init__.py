"""A training in several processes: their messages, shared-out weights, and the files of each."""
