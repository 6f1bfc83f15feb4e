"""Count the files that a reader enters when following one call through the code.

::

    python tests/house/walk.py load      # a configuration to a built backbone
    python tests/house/walk.py item      # one utterance of an A/B, from its text to its scores

Every function is followed the first time it is called, and back to its caller. A stay is a stretch
of reading within one file; a return is a stay in a file that was left before. Prints the figures
for core alone and for all four layers, and with ``--files`` the files in order.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("core", "plugins", "adapters", "kernels")


class Walk:
    """Follows calls between files of this repository while it is active."""

    def __init__(self):
        self.files, self._seen, self._stack = [], set(), []

    def __enter__(self):
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _event(self, frame, event, _):
        code = frame.f_code
        path = Path(code.co_filename)
        if event == "call":
            key = (code.co_filename, code.co_firstlineno)
            inside = any(path.is_relative_to(ROOT / layer) for layer in LAYERS)
            read = inside and key not in self._seen and not code.co_name.startswith("<")
            self._seen.add(key)
            self._stack.append(read)
            if read:
                self._enter(path)
        elif event == "return" and self._stack:
            if self._stack.pop() and any(self._stack):
                caller = frame.f_back
                while caller is not None:
                    at = Path(caller.f_code.co_filename)
                    if any(at.is_relative_to(ROOT / layer) for layer in LAYERS):
                        self._enter(at)
                        break
                    caller = caller.f_back

    def _enter(self, path):
        name = path.relative_to(ROOT).as_posix()
        if not self.files or self.files[-1] != name:
            self.files.append(name)

    @property
    def stays(self):
        """Stretches of reading within one file."""
        return len(self.files)

    @property
    def returns(self):
        """Stays in a file that was left before."""
        return len(self.files) - len(set(self.files))


def in_core(files):
    """Stays within core alone, those in between left out."""
    core = [name for name in files if name.startswith("core/")]
    return [name for at, name in enumerate(core) if at == 0 or core[at - 1] != name]


def load():
    """Follow a bundled configuration to a language model whose shapes are known."""
    from wishbone.core.config.compose import compose
    from wishbone.core.system.build import build_model
    from wishbone.core.system.spec import parse

    build_model(parse(compose(SYSTEM)), "meta")  # imports what is imported when it is needed
    with Walk() as walk:
        build_model(parse(compose(SYSTEM)), "meta")
    return walk


def item():
    """Follow one utterance from its text to its scores."""
    from wishbone.core.contract.extensions.metric import Clip
    from wishbone.core.evaluate.experiment.generate import speak
    from wishbone.core.evaluate.measure.score import Scorer
    from wishbone.core.speak.speaker import build
    from wishbone.core.system.spec import read

    system, scorer, text = build(read(SYSTEM)), Scorer(), "Hello there."

    def follow():
        generation, audio = speak(system, text, 1)
        clip = Clip("first", text, audio, system.decoder.sample_rate)
        scorer.score(clip, generation.failure)

    follow()
    with Walk() as walk:
        follow()
    return walk


SYSTEM = "quickstart-rwkv7"


if __name__ == "__main__":
    walked = {"load": load, "item": item}[sys.argv[1]]()
    core = in_core(walked.files)
    print(f"core: {len(core)} stays, {len(core) - len(set(core))} returns")
    print(f"all: {walked.stays} stays, {walked.returns} returns, {len(set(walked.files))} files")
    if "--files" in sys.argv:
        print("\n".join(walked.files))
