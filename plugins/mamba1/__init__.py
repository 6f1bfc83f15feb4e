"""Mamba, the first: a diagonal state space whose step size and in- and outputs see the position."""
