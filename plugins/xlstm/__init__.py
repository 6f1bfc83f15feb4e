"""xLSTM's matrix memory."""
