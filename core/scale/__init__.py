"""Bulk work in parts: steps, the part of a process, executors that run many parts."""
