"""A folder of the public release: which files it holds, read as data, never as code.

A release is a folder such as CosyVoice2-0.5B. Its ``.pt`` files are pickles, and its YAML builds
Python objects when its own loader reads it; here a pickle is read as tensors only, and the YAML as
text (``settings.py``). Nothing a release says can run.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.weights.files import translate

LANGUAGE_MODEL = "llm.pt"
FLOW = "flow.pt"
VOCODER = "hift.pt"
SPEAKER = "campplus.onnx"
EARS = "speech_tokenizer_v2.onnx"
PRESETS = "spk2info.pt"
"""Speaker presets; not every release has them."""
TEXT = "CosyVoice-BlankEN"
"""Folder of the text tokenizer, and of the config of the language model's body."""
SETTINGS = ("cosyvoice2.yaml", "cosyvoice.yaml")
"""Names of the YAML; the first releases and RWKVTTS use the second."""

FORBIDDEN = re.compile(r"(?:GLOBAL|global:?|function) ([A-Za-z_][\w.]*\.\w+)")
"""How PyTorch names what a pickle wants and does not get."""

COUNTERS = ("epoch", "step")
"""Whole numbers that training leaves among the tensors."""


def file_of(folder: str | Path, name: str, what: str = "") -> Path:
    """The file ``name`` of a release. Raises ``CheckpointError`` where it is missing.

    ``what`` says in a few words what the file is for.
    """
    path = Path(folder) / name
    if not path.exists():
        there = Path(folder).is_dir()
        raise CheckpointError(
            f"The release has no {name}" + (f", {what}." if what else "."),
            str(folder) if there else f"{folder}, which is no folder",
            "Download the release again, whole." if there else "Name the folder that holds llm.pt.",
        )
    return path


def body(folder: str | Path) -> str:
    """What kind of model the release is built on, as the config in ``CosyVoice-BlankEN`` says."""
    path = Path(folder) / TEXT / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def load_tensors(path: str | Path, what: str) -> dict[str, Tensor]:
    """The tensors of a ``.pt`` file of the release, by their names there, on the CPU.

    ``what`` names the part for people, such as "language model". The counters of training are
    dropped, and ``generator.`` in front of the vocoder's names with the discriminators beside it.
    Pickle is read with ``weights_only=True``, so code in it is refused, not run; tensors stay in
    the file until they are copied. Raises ``CheckpointError`` for whatever is no flat table of
    tensors.
    """
    return _flat(load_rows(path, what), Path(path), what)


def load_rows(path: str | Path, what: str) -> dict[Any, Any]:
    """The mapping in a ``.pt`` file, of plain values and tensors only; as ``load_tensors``."""
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


def account(
    table: Mapping[str, str | None], found: Mapping[str, Tensor], where: str = ""
) -> dict[str, Tensor]:
    """Tensors of a release by our names; every name of both sides is accounted for.

    ``table`` maps their names to ours, ``{}`` standing for a number in both, or to ``None`` for
    what is left out on purpose; an entry of ``None`` may meet no tensor. Raises
    ``CheckpointError`` for a name the table does not know and for one that is missing, each named.
    """
    return translate(found, table, where)


def _flat(rows: dict[Any, Any], path: Path, what: str) -> dict[str, Tensor]:
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
        kept = {n: r for n, r in rows.items() if not n.startswith("discriminator.")}
        rows = {name.removeprefix("generator."): row for name, row in kept.items()}
    return rows


def _plain(name: object, row: object) -> bool:
    return type(name) is str and isinstance(row, Tensor) and row.layout is torch.strided


def _reason(error: Exception) -> str:
    """Why a file cannot be read, without PyTorch's advice to allow pickle."""
    text = " ".join(str(error).split())
    if asked := FORBIDDEN.search(text):
        return f"it asks for {asked[1]}, which is code and was not run."
    if isinstance(error, EOFError) or "central directory" in text or "Ran out of input" in text:
        return "it is empty or was cut short."
    return (text.partition(". ")[0].rstrip(".") or type(error).__name__)[:200] + "."
