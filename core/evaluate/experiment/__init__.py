"""An A/B: its plan, its arms and the items they speak."""
