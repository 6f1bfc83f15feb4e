"""Commands that only look: ``list``, ``runs`` and ``diff``."""
