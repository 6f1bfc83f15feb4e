"""Bulk work on data: long lists that are spoken, parts that are gathered, an index for training."""
