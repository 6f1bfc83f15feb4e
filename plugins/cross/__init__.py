"""Mixers that remember text alone: speech positions read that memory and never write to it."""
