"""Convert a learned state into another form: ``wishbone state-convert FROM TO``.

FROM is the export of a training, a voice (.yaml), or RWKV-PEFT's file (.pth, .pt, .safetensors);
TO a voice or such a file. A voice belongs to a model: with RWKV-PEFT's file, --system says which.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wishbone.core.cli.arguments import Parser
from wishbone.core.cli.main import in_three_lines
from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import UsageError
from wishbone.core.speak.speaker import build
from wishbone.core.speak.voice import Voice
from wishbone.core.system.spec import read
from wishbone.core.system.system import System
from wishbone.core.weights.checkpoint import save
from wishbone.core.weights.provenance import provenance
from wishbone.plugins.state_tuning.files import (
    ENDINGS,
    read_time_state,
    unwrap,
    write_time_state,
)


def main(argv: Sequence[str]) -> int:
    """Convert once; raises ``WishboneError`` for whatever cannot be done."""
    options = _parser().parse_args(argv)
    source, target = Path(options.source), Path(options.target)
    if target.suffix not in (".yaml", ".pth", ".safetensors"):
        raise UsageError(
            f"'{target.name}' is neither a voice nor RWKV-PEFT's file.",
            str(target),
            "End it in .yaml for a voice, or in .pth or .safetensors.",
        )
    voice = _voice(source, options)
    if target.suffix == ".yaml":
        voice.save(target)
    else:
        if not voice.start:
            raise UsageError(
                "The voice has no learned state.", str(source), "Give one that was tuned."
            )
        write_time_state(target, voice.start)
    count = sum(part.numel() for part in (voice.start or {}).values())
    print(f"{target} written: {count} numbers, {4 * count / 1e6:.2f} MB, for model {voice.model}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "wishbone state-convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="RUN/export, a voice, or RWKV-PEFT's file")
    parser.add_argument("target", help="a voice (.yaml), or RWKV-PEFT's file (.pth, .safetensors)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the system")
    parser.add_argument("--system", help="whose state RWKV-PEFT's file holds: name or YAML file")
    parser.add_argument("--name", default="", help="of the voice (default: that of the file)")
    parser.add_argument("--licence", default="", help="of what it was learned from")
    parser.add_argument("--about", default="", help="what it was learned from")
    parser.add_argument(
        "--plain", metavar="FOLDER",
        help="write the system without the state here, where tables or head were trained with it",
    )  # fmt: skip
    return parser


def _voice(source: Path, options: argparse.Namespace) -> Voice:
    """Read a learned state from any of the three forms. Raises ``UsageError``."""
    if source.is_dir():
        return _from_training(source, options)
    if source.suffix == ".yaml":
        return Voice.load(source)
    if source.suffix not in ENDINGS:
        raise UsageError(
            "This is no folder of a training, no voice and no file of tensors.",
            str(source),
            "Give RUN/export, a .yaml, or a .pth.",
        )
    start = read_time_state(source)
    if options.system is None:
        if Path(options.target).suffix != ".yaml":
            return Voice(start=start)
        raise UsageError(
            "A voice belongs to a model, and RWKV-PEFT's file does not say to which.",
            str(source),
            "Name the system it was learned with: --system NAME.",
        )
    return _voice_of(build(read(options.system, options.overrides)), start, options)


def _from_training(folder: Path, options: argparse.Namespace) -> Voice:
    """Read a training's export; with ``--plain`` also write the system without the state."""
    system, start = unwrap(build(read(folder, options.overrides)))
    if options.plain:
        config = {key: value for key, value in system.config.items() if key != "voice"}
        origin = provenance(config, notes={"unwrapped from": str(folder)})
        save(options.plain, system.model, config | {"weights": "."}, origin)
    return _voice_of(system, start, options)


def _voice_of(system: System, start: State, options: argparse.Namespace) -> Voice:
    """Make a voice of a learned state, with the options' name, licence and description."""
    name = options.name or Path(options.target).stem
    return Voice.from_start(system, start, name, options.licence, options.about)


if __name__ == "__main__":
    sys.exit(in_three_lines(main))
