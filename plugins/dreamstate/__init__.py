"""DREAMSTATE: a generator of the states that backbones begin with, and what goes into them."""
