"""What ``weights: FOLDER`` does when the folder is a release of CosyVoice2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from wishbone.core.contract.release import Found, ReleaseReader
from wishbone.plugins.cosyvoice2.release import files, settings
from wishbone.plugins.heads.head import LinearHead
from wishbone.plugins.transformer.backbone import Transformer
from wishbone.plugins.transformer.convert import from_cosyvoice2

if TYPE_CHECKING:
    from wishbone.core.model.speech_lm import SpeechLM
    from wishbone.core.speak.voice import Voice

QWEN2 = ("qwen2", "")
"""``model_type`` in the config of the language model's body; without one it is a Qwen2, too."""


class Release(ReleaseReader):
    """Folders of CosyVoice2-0.5B and its fine-tunings."""

    def holds(self, folder: Path) -> bool:
        """Whether the folder has an ``llm.pt`` around a Qwen2."""
        return (folder / files.LANGUAGE_MODEL).is_file() and files.body(folder) in QWEN2

    def language_model(self, folder: Path, model: SpeechLM) -> Found:
        """``llm.pt`` for the model at hand: a ``Transformer`` and a ``LinearHead`` get all of it.

        A backbone or a head of another kind keeps what it has, so that its own ``weights:`` or a
        training can fill it; tables and the rest come from the release. Raises ``CheckpointError``.
        """
        _check_size(folder, model)
        path = folder / files.LANGUAGE_MODEL
        theirs = from_cosyvoice2(files.load_tensors(path, "language model"), where=str(path))
        kept = [
            part
            for part, kind in (("backbone", Transformer), ("head", LinearHead))
            if not isinstance(getattr(model, part), kind)
        ]
        tensors = _with(theirs, model, kept)
        return Found(tensors, _note(kept, model))

    def voices(self, folder: Path) -> dict[str, Voice]:
        """The speaker presets of ``spk2info.pt``, by name."""
        from wishbone.plugins.cosyvoice2.release.presets import read

        path = folder / files.PRESETS
        return read(path) if path.is_file() else {}


def _check_size(folder: Path, model: SpeechLM) -> None:
    """The sizes that the YAML states, told apart before two gigabytes are read."""
    stated = settings.read(folder)
    width = model.backbone.width
    expected = {"llm.llm_input_size": width, "llm.llm_output_size": width}
    settings.check(stated, expected, str(folder))


def _with(theirs: dict[str, Tensor], model: SpeechLM, kept: list[str]) -> dict[str, Tensor]:
    """``theirs``, but the parts ``kept`` as they are in the model."""
    begins = tuple(f"{part}." for part in kept)
    if not begins:
        return theirs
    own = {name: row for name, row in model.state_dict().items() if name.startswith(begins)}
    return own | {name: row for name, row in theirs.items() if not name.startswith(begins)}


def _note(kept: list[str], model: SpeechLM) -> str:
    if not kept:
        return ""
    names = " and ".join(f"the {part} {type(getattr(model, part)).__name__}" for part in kept)
    return (
        f"{names} took nothing from the release and is untrained unless it has weights of its own"
    )
