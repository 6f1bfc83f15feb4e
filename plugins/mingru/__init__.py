"""minGRU and minLSTM: gated recurrences whose gates see the input alone."""
