"""Folders of weights: one file or several with a list, and the part of a model in them.

Reading never runs what a file says: pickles are read as tensors only.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.weights.tensor_files import FILE, read_tensors, unwrapped

WHOLE = ("model.safetensors", "pytorch_model.bin")
"""One file of weights, the better first."""
INDEX = ".index.json"
"""Ends the name of the list of several."""
_AS_PREFIX = {
    "speech_tokenizer": ("speech_tokenizer.", "tokenizer."),
    "decoder": ("decoder.",),
    "backbone": ("backbone.",),
    "head": ("head.",),
}
"""Slot -> beginnings of its names in a file of a whole codec, or of a whole language model."""
_BEGINNINGS = ("tables.", *(prefix for prefixes in _AS_PREFIX.values() for prefix in prefixes))


def part_tensors(folder: str | Path, slot: str) -> tuple[dict[str, Tensor], Path]:
    """Read the tensors of one slot in a checkpoint folder, by the part's own names -> their file.

    ``<slot>.safetensors`` is used if the folder has it; otherwise ``model.safetensors``, in one
    file or several with a list, of which a part takes the names that begin with its own. Raises
    ``CheckpointError``.
    """
    slot_file = Path(folder) / f"{slot}.safetensors"
    path = slot_file if slot_file.is_file() else Path(folder) / FILE
    index = path.with_name(path.name + INDEX)
    listed = index.is_file() and not path.is_file()
    tensors = read_folder(folder) if listed else read_tensors(path)
    path = index if listed else path
    bare = unwrapped(tensors)
    if any(name.startswith(_BEGINNINGS) for name in bare):
        tensors = bare
    for prefix in _AS_PREFIX.get(slot, ()):
        inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if inside and path != slot_file:
            return inside, path
    return tensors, path


def files(folder: str | Path) -> list[Path]:
    """List the files of weights in a folder of Hugging Face, which may have none.

    Raises ``CheckpointError`` for a list that names a file outside the folder, or one that is
    missing.
    """
    folder = Path(folder)
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
        if (folder / (name + INDEX)).is_file():
            return _listed(folder / (name + INDEX))
    return []


def read_folder(source: str | Path) -> dict[str, Tensor]:
    """Read the named tensors of a file, or of a folder of Hugging Face in one file or several.

    Raises ``CheckpointError``.
    """
    source = Path(source)
    if not source.is_dir():
        return dict(read_tensors(source))
    parts = files(source)
    if not parts:
        raise CheckpointError(
            f"The folder has neither {WHOLE[0]} nor {WHOLE[1]}, nor a list of several.",
            str(source),
            "Name the folder in which the weights are.",
        )
    tensors: dict[str, Tensor] = {}
    for file in parts:
        part = read_tensors(file)
        twice = sorted(tensors.keys() & part.keys())
        if twice:
            raise CheckpointError(
                f"Two files have {', '.join(twice[:3])}.", str(file), "Download the folder again."
            )
        tensors |= part
    return tensors


def _listed(index: Path) -> list[Path]:
    """Files that an index of several names; raises ``CheckpointError``."""
    try:
        rows = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in rows.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The list of files cannot be read: {error!r}.", str(index), "Download it again."
        ) from error
    outside = [name for name in names if Path(name).name != name]
    missing = [name for name in names if not (index.parent / name).is_file()]
    if outside or missing:
        raise CheckpointError(
            f"The list names {', '.join((outside or missing)[:3])},"
            f" which {'is outside its folder' if outside else 'is not here'}.",
            str(index),
            "Download the folder again, whole.",
        )
    return [index.parent / name for name in names]
