"""Belief read-out: a running mean and variance beside what a backbone computes."""
