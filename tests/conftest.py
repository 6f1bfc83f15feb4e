"""Keeps the repository's root off the import path.

``python -m pytest`` puts it there, and then ``import kernels`` in somebody else's package (the
transformers library looks for one of this name) finds our folder instead of nothing.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
