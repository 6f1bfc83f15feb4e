"""Families of transformers that work on this machine, for ``wishbone doctor``; imports none."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path

from wishbone.plugins.hf.families import FAMILIES, KERNELS, REFUSED

TESTED = "5.24.0"
"""The version that the tables of README.md were made with."""
FOLDERS = {"qwen3_5_text": "qwen3_5"}
"""Family -> its folder in transformers, where it is called otherwise."""
CODECS = (
    "mimi", "dac", "encodec", "xcodec", "higgs_audio_v2_tokenizer", "neucodec", "xcodec2",
    "wavtokenizer",
)  # fmt: skip


def hf_report() -> list[tuple[str, bool, str]]:
    """Return a line for language models and one for codecs: (name, fine, a sentence)."""
    spec = util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        why = "transformers is not installed; pip install 'wishbone-tts[hf]'"
        return [("hf codecs", False, why), ("hf language models", False, why)]
    version = metadata.version("transformers")
    if tuple(int(n) for n in version.split(".")[:2] if n.isdigit()) < (5, 24):
        why = f"transformers {version} is too old; pip install 'wishbone-tts[hf]'"
        return [("hf codecs", False, why), ("hf language models", False, why)]
    models = Path(next(iter(spec.submodule_search_locations))) / "models"
    with_version = f"transformers {version}"
    if version != TESTED:
        with_version += f" (tested with {TESTED}: 'plugins check hf' says whether this one fits)"
    present = [name for name in FAMILIES if (models / FOLDERS.get(name, name)).is_dir()]
    codecs = [name for name in CODECS if (models / name).is_dir()]
    refused = f"refused {', '.join(REFUSED)}; others are tried"
    if installed := [name for name in KERNELS if util.find_spec(name)]:
        refused += f"; {', '.join(installed)} used with a GPU, left out without one"
    return [
        ("hf codecs", len(codecs) == len(CODECS), f"{with_version}: {', '.join(codecs)}"),
        (
            "hf language models",
            len(present) == len(FAMILIES),
            f"{with_version}: {', '.join(present)}; {refused}",
        ),
    ]
