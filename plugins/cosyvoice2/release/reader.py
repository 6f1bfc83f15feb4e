"""Read a release of CosyVoice2 or 3 for ``weights: FOLDER``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from wishbone.core.contract.extensions.release import Found, ReleaseReader
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.speak.voice import Voice
from wishbone.plugins.cosyvoice2.release import files, presets, settings
from wishbone.plugins.heads.head import LinearHead
from wishbone.plugins.transformer.backbone import Transformer
from wishbone.plugins.transformer.convert import from_cosyvoice2

QWEN2 = ("qwen2", "")
"""``model_type`` in the config of the language model's body; without one it is a Qwen2, too."""


class Release(ReleaseReader):
    """Folders of CosyVoice2-0.5B, of CosyVoice3's language model, and of their fine-tunings."""

    def holds(self, folder: Path) -> bool:
        """Tell whether the folder has an ``llm.pt`` around a Qwen2."""
        return (folder / files.LANGUAGE_MODEL).is_file() and files.body_type(folder) in QWEN2

    def language_model(self, folder: Path, model: SpeechLM) -> Found:
        """Read ``llm.pt`` for ``model``; a ``Transformer`` and a ``LinearHead`` get all of it.

        A backbone or a head of another kind keeps its tensors, so that its own ``weights:`` or a
        training can fill it; tables and the rest come from the release. Raises ``CheckpointError``.
        """
        _check_size(folder, model)
        path = folder / files.LANGUAGE_MODEL
        released = from_cosyvoice2(files.load_tensors(path, "language model"), where=str(path))
        unchanged = [
            part
            for part, kind in (("backbone", Transformer), ("head", LinearHead))
            if not isinstance(getattr(model, part), kind)
        ]
        return Found(_with(released, model, unchanged), _note(unchanged, model))

    def voices(self, folder: Path) -> dict[str, Voice]:
        """Read the speaker presets of ``spk2info.pt``, by name."""
        path = folder / files.PRESETS
        return presets.read(path) if path.is_file() else {}


def _check_size(folder: Path, model: SpeechLM) -> None:
    """Compare the sizes in the YAML with the model's before two gigabytes are read."""
    values = settings.read(folder)
    width = model.backbone.width
    expected = {"llm.llm_input_size": width, "llm.llm_output_size": width}
    settings.check(values, expected, str(folder))


def _with(released: dict[str, Tensor], model: SpeechLM, unchanged: list[str]) -> dict[str, Tensor]:
    """Take the tensors of the release, but those of the parts ``unchanged`` from the model."""
    begins = tuple(f"{part}." for part in unchanged)
    if not begins:
        return released
    current = {name: row for name, row in model.state_dict().items() if name.startswith(begins)}
    return current | {name: row for name, row in released.items() if not name.startswith(begins)}


def _note(unchanged: list[str], model: SpeechLM) -> str:
    """Name the parts that the release did not fill, for the person who reads the log."""
    if not unchanged:
        return ""
    names = " and ".join(f"the {part} {type(getattr(model, part)).__name__}" for part in unchanged)
    return (
        f"{names} took nothing from the release and is untrained unless it has weights of its own"
    )
