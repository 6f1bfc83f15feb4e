"""``wishbone synth``: speak a long list, in parts, by as many processes as there are."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wishbone.core.cli.arguments import COMPUTING, EngineOptions, argument, option, parse
from wishbone.core.cli.bulk.parts import PartOptions, do_in_parts
from wishbone.core.contract.errors import WishboneError, when_stopped
from wishbone.core.contract.part import Seed, Size

if TYPE_CHECKING:
    from wishbone.core.data.bulk.bulk_part import SynthStep
    from wishbone.core.system.system import System

EXAMPLES = """examples:
  wishbone synth prompts.txt --out spoken
  wishbone synth meta.lst --system runs/mine/export --out spoken
  wishbone synth list.jsonl --out spoken --executor local:2
  wishbone synth list.jsonl --out spoken --executor cluster.yaml     Slurm or Ray
  wishbone synth list.jsonl --out spoken --part 1/2        and, beside it, --part 2/2
  sbatch --array=1-64 --wrap 'wishbone synth list.jsonl --out spoken'
  torchrun --nproc-per-node 4 -m wishbone synth list.jsonl --out spoken"""
FORMS = ("flac", "wav", "ogg")


@dataclass(frozen=True, kw_only=True)
class SynthOptions(EngineOptions, PartOptions):
    """Speak every item of a list into a file, with a line of facts for each in items.jsonl.

    The same command goes on after a stop, and nothing is spoken twice. Items are the same however
    many processes share the work: each takes every so-manieth item.
    """

    list: Path = argument(
        metavar="LIST",
        help=".jsonl or .csv with text and, where wanted, id, voice, seed, recording, transcript;"
        " .lst of seed-tts-eval; any other file has a sentence a line",
    )
    overrides: list[str] = argument(
        [], metavar="key=value", help="changes to the system's configuration"
    )
    out: Path = option(metavar="FOLDER", help="where audio/, items/ and items.jsonl are written")
    system: str = option(
        "quickstart-rwkv7", metavar="NAME",
        help="a bundled system's name, a YAML file, or a folder that a training exported",
    )  # fmt: skip
    voice: str = option(
        "",
        metavar="NAME",
        default_text="the system's own",
        help="whose voice it is, where an item names none",
    )
    seed: Seed = option(0, metavar="N", help="the seed of items that name none")
    format: str = option("flac", metavar="NAME", choices=FORMS, help=f"{', '.join(FORMS)}")
    together: Size = option(8, metavar="N", group=COMPUTING, help="how many are spoken at once")
    threads: Size = option(
        1, metavar="N", group=COMPUTING,
        help="threads of a process; items are the same to the last bit for an equal number",
    )  # fmt: skip
    device: str = option(
        "cpu", metavar="NAME", group=COMPUTING, help="where it is computed: cpu, cuda, mps, ..."
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code, raises ``WishboneError`` where items failed."""
    options = parse(SynthOptions, argv, "wishbone synth", EXAMPLES)
    return do_in_parts(options, ["synth", *argv], lambda: _step(options), _do_part)


def _step(options: SynthOptions) -> SynthStep:
    from wishbone.core.data.bulk.bulk_part import How, SynthStep
    from wishbone.core.data.bulk.lists import read_list
    from wishbone.core.speak import speaker

    @cache
    def load() -> tuple[System, str]:
        names = (options.system, options.overrides, options.device, options.engine)
        system = speaker.load(*names)
        return system, _system_key(system)

    how = How(options.voice, options.seed, options.together, options.format, options.threads)
    return SynthStep(read_list(options.list), options.out, how, load)


def _do_part(step: Any, part: int, parts: int) -> int:
    from wishbone.core.data.bulk.bulk_part import ITEMS, finished, gather
    from wishbone.core.scale.step import do_part

    with when_stopped(lambda: "what is spoken is written; the same command goes on"):
        work = do_part(step, part, parts)
    of = f"part {part} of {parts}, " if parts > 1 else ""
    rate = work.speech_seconds / max(work.wall_seconds, 1e-9)
    print(
        f"{of}{work.items} items, {work.speech_seconds:.1f} s of speech in"
        f" {work.wall_seconds:.1f} s ({rate:.1f} times real time)"
    )
    missing = gather(step.items, step.folder)
    if missing:
        print(f"{missing} of {len(step.items)} items are left to other parts", file=sys.stderr)
    else:
        print(step.folder / ITEMS)
    if work.failures:
        rows = finished(step.folder).values()
        first = next(row for row in rows if row["failure"])
        raise WishboneError(
            f"{work.failures} of {work.items} items failed, the others are spoken:"
            f" {first['id']}: {first['failure']}",
            str(step.folder),
            f"'failure' in {ITEMS} says why, for each; correct the list and choose another --out.",
        )
    return 0


def _system_key(system: System) -> str:
    """A hash of all of a system that decides how it speaks."""
    from wishbone.core.speak.voice import model_key
    from wishbone.core.weights.fingerprint import fingerprint

    config = json.dumps(system.config, sort_keys=True, default=str)
    parts = [config, model_key(system), fingerprint(system.decoder), str(system.model.engine)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
