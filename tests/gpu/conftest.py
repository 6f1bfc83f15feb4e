"""Fixtures of every test here: the skip where there is no GPU, and one file of figures.

``python -m pytest tests/gpu`` runs everything that waits for a GPU. With
``WISHBONE_GPU_RESULTS=FILE`` the figures of all tests are written there as JSON, with the device,
the versions and the date, to be committed beside this file.
"""

import json
import os
import time
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Skip what lies in this folder, and nothing else, where there is no GPU."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device: run this on a machine with a GPU")
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def figures():
    """Name -> number (or anything JSON holds) that a test wants in the file of results."""
    record = {}
    yield record
    target = os.environ.get("WISHBONE_GPU_RESULTS")
    if target and record:
        text = json.dumps({**about(), "figures": record}, indent=1)
        partial = Path(target + ".part")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(target)


def about() -> dict[str, str]:
    """Describe the machine that the figures come from."""
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = "not installed"
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "triton": version,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
