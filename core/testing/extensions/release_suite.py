"""Suite of readers of releases, the folders that other projects publish."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from wishbone.core.contract.extensions.release import Found, ReleaseReader
from wishbone.core.speak.voice import Voice
from wishbone.core.testing.common import Check, Skipped, Violation, require
from wishbone.core.testing.toys import toy_model


def contract(cls: Any, config: Any, module: str | None) -> None:
    """The class is made without arguments and is a ``ReleaseReader``."""
    require(
        issubclass(cls, ReleaseReader),
        "the class is no wishbone.core.contract.extensions.release.ReleaseReader",
    )
    cls()


def strange_folders(cls: Any, config: Any, module: str | None) -> str:
    """Folders of others are not claimed, and looking at them never raises."""
    with TemporaryDirectory() as place:
        folders = _strange(Path(place))
        for name, folder in folders.items():
            try:
                answer = cls().holds(folder)
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise Violation(f"{name}: holds() raises {what}") from error
            require(answer is False, f"{name}: holds() says {answer!r}")
    return f"{len(folders)} folders"


def _strange(place: Path) -> dict[str, Path]:
    """Name -> a folder that is no release."""
    contents = {
        "an empty folder": {},
        "a folder of text": {"readme.txt": b"nothing of yours"},
        "a torn config.json": {"config.json": b"{", "model.safetensors": b"torn"},
        "a config.json that is a list": {"config.json": b"[]"},
        "a folder of Wishbone": {"config.yaml": b"backbone: {}\n", "model.safetensors": b"torn"},
    }
    folders = {}
    for number, (name, files) in enumerate(contents.items()):
        folders[name] = place / str(number)
        folders[name].mkdir()
        for file, content in files.items():
            (folders[name] / file).write_bytes(content)
    return folders


def example(cls: Any, config: Any, module: str | None) -> str:
    """Its own example is claimed, gives the model its weights bit for bit, and has voices."""
    model = toy_model()
    with TemporaryDirectory() as place:
        folder = Path(place)
        if not cls().write_example(folder, model):
            raise Skipped("offers no example (write_example)")
        require(cls().holds(folder) is True, "holds() does not know the example")
        result = cls().language_model(folder, model)
        kind = type(result).__name__
        require(isinstance(result, Found), f"language_model() returns a {kind}, not a Found")
        expected = model.state_dict()
        differ = sorted(result.tensors.keys() ^ expected.keys())
        require(not differ, f"names differ from the model's: {', '.join(differ[:5])}")
        for name, tensor in expected.items():
            equal = torch.equal(result.tensors[name], tensor)
            require(equal, f"{name} has other numbers than the model in the example")
        voices = cls().voices(folder)
        wrong = [name for name, voice in voices.items() if not isinstance(voice, Voice)]
        require(
            not wrong, f"voices that are no wishbone.core.speak.voice.Voice: {', '.join(wrong)}"
        )
    return f"{len(expected)} tensors, {len(voices)} voices"


CHECKS = (
    Check("contract", "A ReleaseReader made without arguments.", contract),
    Check("strange_folders", "Folders of others are not claimed.", strange_folders),
    Check("example", "Its own example is read bit for bit.", example),
)
