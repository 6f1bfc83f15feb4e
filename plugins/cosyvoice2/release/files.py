"""The files in a folder of the public release, read as data, never as code.

A release is a folder such as CosyVoice2-0.5B. Its ``.pt`` files are pickles, and its YAML builds
Python objects when its own loader reads it; here a pickle is read as tensors only, and the YAML as
text (``settings.py``). Nothing a release says can run.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.errors import CheckpointError

LANGUAGE_MODEL = "llm.pt"
FLOW = "flow.pt"
VOCODER = "hift.pt"
SPEAKER = "campplus.onnx"
EARS = "speech_tokenizer_v2.onnx"
PRESETS = "spk2info.pt"
"""Speaker presets; not every release has them."""
TEXT = "CosyVoice-BlankEN"
"""Folder of the text tokenizer, and of the config of the language model's body."""
THIRD = "cosyvoice3.yaml"
"""The YAML of CosyVoice3, whose language model and tokenizer are read, and no more."""
SETTINGS = ("cosyvoice2.yaml", THIRD, "cosyvoice.yaml")
"""Names of the YAML; the first releases and RWKVTTS use the last."""

FORBIDDEN = re.compile(r"(?:GLOBAL|global:?|function) ([A-Za-z_][\w.]*\.\w+)")
"""The name, in PyTorch's message, of code that a pickle asks for and does not get."""

COUNTERS = ("epoch", "step")
"""Whole numbers that training leaves among the tensors."""


def file_of(folder: str | Path, name: str, what: str = "") -> Path:
    """Find the file ``name`` of a release. Raises ``CheckpointError`` where it is missing.

    ``what`` describes the file in a few words, for the error.
    """
    path = Path(folder) / name
    if not path.exists():
        is_folder = Path(folder).is_dir()
        do = "Download the release again, whole."
        raise CheckpointError(
            f"The release has no {name}" + (f", {what}." if what else "."),
            str(folder) if is_folder else f"{folder}, which is no folder",
            do if is_folder else "Name the folder that holds llm.pt.",
        )
    return path


def refuse_third(folder: str | Path, what: str) -> None:
    """Raise ``CheckpointError`` for a folder of CosyVoice3, of which only text and codes are read.

    ``what`` names the part that is asked for, such as "flow".
    """
    if (Path(folder) / THIRD).is_file():
        raise CheckpointError(
            f"This is CosyVoice3, whose {what} is another network than CosyVoice2's, and not here.",
            str(folder),
            "Train or distil its language model, which needs none; plugins/cosyvoice2/README.md"
            " lists what is missing to speak.",
        )


def body_type(folder: str | Path) -> str:
    """Read the ``model_type`` of the language model's body from ``CosyVoice-BlankEN``, or ""."""
    path = Path(folder) / TEXT / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def load_tensors(path: str | Path, what: str) -> dict[str, Tensor]:
    """Read the tensors of a ``.pt`` file of the release, by their names there, on the CPU.

    ``what`` names the part for people, such as "language model". The counters of training are
    dropped, and ``generator.`` in front of the vocoder's names with the discriminators beside it.
    Pickle is read with ``weights_only=True``, so code in it is refused, not run; tensors stay in
    the file until they are copied. Raises ``CheckpointError`` for whatever is no flat table of
    tensors.
    """
    return _flat(load_rows(path, what), Path(path), what)


def load_rows(path: str | Path, what: str) -> dict[Any, Any]:
    """Read the mapping in a ``.pt`` file, of plain values and tensors only; as ``load_tensors``."""
    path = Path(path)
    file_of(path.parent, path.name, f"the {what}")
    try:
        with warnings.catch_warnings():
            # about protocols and sparse tensors: neither passes what follows
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:
        raise CheckpointError(
            f"The {what} cannot be read as tensors: {_reason(error)}",
            str(path),
            "Download the file again; if it holds more than tensors, do not trust it.",
        ) from error
    return loaded if isinstance(loaded, dict) else {}


def _flat(rows: dict[Any, Any], path: Path, what: str) -> dict[str, Tensor]:
    """Check that ``rows`` is a flat table of tensors, and strip the vocoder's prefix."""
    rows = {name: row for name, row in rows.items() if name not in COUNTERS}
    odd = sorted(str(name) for name, row in rows.items() if not _plain(name, row))
    if odd or not rows:
        raise CheckpointError(
            f"The {what} is no table of tensors: it holds "
            + (f"something else as {', '.join(odd[:5])}." if odd else "none."),
            str(path),
            "Use the file of the release, or the state_dict that training saved.",
        )
    if any(name.startswith("generator.") for name in rows):
        rows = {
            name.removeprefix("generator."): row
            for name, row in rows.items()
            if not name.startswith("discriminator.")
        }
    return rows


def _plain(name: object, row: object) -> bool:
    return type(name) is str and isinstance(row, Tensor) and row.layout is torch.strided


def _reason(error: Exception) -> str:
    """Explain an error of reading, without PyTorch's advice to allow pickle."""
    text = " ".join(str(error).split())
    if match := FORBIDDEN.search(text):
        return f"it asks for {match[1]}, which is code and was not run."
    if isinstance(error, EOFError) or "central directory" in text or "Ran out of input" in text:
        return "it is empty or was cut short."
    return (text.partition(". ")[0].rstrip(".") or type(error).__name__)[:200] + "."
