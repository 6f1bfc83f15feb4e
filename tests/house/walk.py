"""Count the files that a reader enters when following one call through the code.

::

    python tests/house/walk.py load      # a configuration to a built backbone
    python tests/house/walk.py item      # one utterance of an A/B, from its text to its scores

Every function is followed the first time it is called, and back to its caller. A stay is a stretch
of reading within one file; a return is a stay in a file that was left before. Prints the figures
for core alone (parts are followed to their first line, not inside) and for all four layers, and
with ``--files`` the files in order.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("core", "plugins", "adapters", "kernels")


class Walk:
    """Follows calls between files of this repository while it is active.

    ``until`` is the qualified name of the function whose call ends the walk.
    """

    def __init__(self, layers=LAYERS, until=""):
        self.files, self._seen, self._stack = [], set(), []
        self._layers, self._until, self._ended = layers, until, False

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
            read = self._inside(path) and key not in self._seen and code.co_name[0] != "<"
            # what a part calls is not followed where its layer is none of those that are read
            read = read and not self._inside_another(frame.f_back)
            read = read and not self._ended
            self._seen.add(key)
            self._ended = self._ended or code.co_qualname == self._until
            self._stack.append(read)
            if read:
                self._enter(path)
        elif event == "return" and self._stack:
            if self._stack.pop() and any(self._stack):
                caller = frame.f_back
                while caller is not None and not self._ended:
                    at = Path(caller.f_code.co_filename)
                    if self._inside(at):
                        self._enter(at)
                        break
                    caller = caller.f_back

    def _inside(self, path, layers=None):
        return any(path.is_relative_to(ROOT / layer) for layer in layers or self._layers)

    def _inside_another(self, frame):
        """True where a frame around this one is of a layer that is not read."""
        others = [layer for layer in LAYERS if layer not in self._layers]
        while frame is not None:
            if others and self._inside(Path(frame.f_code.co_filename), others):
                return True
            frame = frame.f_back
        return False

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


def load(layers):
    """Follow a bundled configuration to the constructor of its backbone."""
    from wishbone.core.config.compose import compose
    from wishbone.core.system.build import build_model
    from wishbone.core.system.spec import parse

    build_model(parse(compose(SYSTEM)), "meta")  # imports what is imported when it is needed
    with Walk(layers, until="Preset.__init__") as walk:
        build_model(parse(compose(SYSTEM)), "meta")
    return walk


def item(layers):
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
        scorer.values(clip, generation.failure)

    follow()
    with Walk(layers) as walk:
        follow()
    return walk


SYSTEM = "quickstart-rwkv7"


if __name__ == "__main__":
    follow = {"load": load, "item": item}[sys.argv[1]]
    for title, layers in (("core", ("core",)), ("all", LAYERS)):
        walked = follow(layers)
        files = len(set(walked.files))
        print(f"{title}: {walked.stays} stays, {walked.returns} returns, {files} files")
        if "--files" in sys.argv:
            print("\n".join(walked.files))
