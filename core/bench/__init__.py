"""Speed, memory and latency beside the peers that are installed, as ratios in one run.

``plan`` reads a suite's YAML file, ``rounds`` lets every contender's own process (``protocol``,
``worker``) take turns, ``arithmetic`` makes ratios and a verdict of the times, and ``terminal``,
``page`` and ``result`` say what was found.
"""
