"""LSTM and GRU: the gated cells of the years before attention, as PyTorch computes them."""
