"""Training a system's language model, in one process or many; README.md tells how.

What is random follows from the seed and the step, so a checkpoint holds weights, their average and
AdamW's memory. They are safetensors, each process's share in a file of its own where weights are
shared out, and not ``torch.distributed.checkpoint``'s form: its ``.metadata`` is a pickle.
"""
