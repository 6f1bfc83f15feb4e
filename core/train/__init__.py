"""Training of a system's language model, in one process or many; README.md explains it.

Every random choice follows from the seed and the step, so a checkpoint holds weights, their
average and the optimizer's memory. They are safetensors, each process's share in a file of its own
where weights are shared out; ``torch.distributed.checkpoint`` would write a pickle.
"""
