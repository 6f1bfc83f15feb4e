"""``wishbone synth``: speak a long list, in parts, by as many processes as there are."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wishbone.core.cli.arguments import COMPUTING, EngineOptions, argument, option, parse
from wishbone.core.contract.errors import UsageError, WishboneError, when_stopped
from wishbone.core.contract.part import Seed, Size

if TYPE_CHECKING:
    from wishbone.core.system.system import System

EXAMPLES = """examples:
  wishbone synth prompts.txt --out spoken
  wishbone synth meta.lst --system runs/mine/export --out spoken
  wishbone synth list.jsonl --out spoken --part 1/2        and, beside it, --part 2/2
  sbatch --array=1-64 --wrap 'wishbone synth list.jsonl --out spoken'
  torchrun --nproc-per-node 4 -m wishbone synth list.jsonl --out spoken"""
FORMS = ("flac", "wav", "ogg")


@dataclass(frozen=True, kw_only=True)
class SynthOptions(EngineOptions):
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
    part: str = option(
        "", metavar="K/N", default_text="SLURM_ARRAY_TASK_ID or RANK, else all of it",
        help="speak the K-th of N parts",
    )  # fmt: skip
    together: Size = option(8, metavar="N", group=COMPUTING, help="how many are spoken at once")
    device: str = option(
        "cpu", metavar="NAME", group=COMPUTING, help="where it is computed: cpu, cuda, mps, ..."
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code, raises ``WishboneError`` where items failed."""
    options = parse(SynthOptions, argv, "wishbone synth", EXAMPLES)
    part, parts = which_part(options.part, os.environ)
    from wishbone.core.data.bulk.bulk_part import ITEMS, How, claim, gather, speak_part
    from wishbone.core.data.bulk.lists import read_list
    from wishbone.core.speak.speaker import load

    items = read_list(options.list)
    system = load(options.system, options.overrides, options.device, options.engine)
    how = How(options.voice, options.seed, options.together, options.format)
    claim(options.out, items, _system_key(system), how)
    start, of = time.perf_counter(), f"part {part} of {parts}, " if parts > 1 else ""
    with when_stopped(lambda: "what is spoken is written; the same command goes on"):
        rows = speak_part(system, items, options.out, how, part, parts)
    seconds, spent = sum(row["seconds"] for row in rows), time.perf_counter() - start
    print(
        f"{of}{len(rows)} items, {seconds:.1f} s of speech in {spent:.1f} s"
        f" ({seconds / max(spent, 1e-9):.1f} times real time)"
    )
    missing = gather(items, options.out)
    if missing:
        print(f"{missing} of {len(items)} items are left to other parts", file=sys.stderr)
    else:
        print(options.out / ITEMS)
    failed = [row for row in rows if row["failure"]]
    if failed:
        raise WishboneError(
            f"{len(failed)} of {len(rows)} items failed, the others are spoken:"
            f" {failed[0]['id']}: {failed[0]['failure']}",
            str(options.out),
            f"'failure' in {ITEMS} says why, for each; correct the list and choose another --out.",
        )
    return 0


def which_part(words: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Number and count of parts, from 1: of ``K/N``, an array of Slurm, or torchrun's rank.

    Raises ``UsageError`` for what is no part.
    """
    where = "--part"
    if not words and "SLURM_ARRAY_TASK_ID" in environment:
        where = "SLURM_ARRAY_TASK_ID"
        task, first = environment[where], environment.get("SLURM_ARRAY_TASK_MIN", "1")
        words = f"{_after(task, first)}/{environment.get('SLURM_ARRAY_TASK_COUNT', '1')}"
    elif not words and environment.get("WORLD_SIZE", "1") != "1":
        where = "RANK"
        words = f"{_after(environment.get('RANK', ''), '0')}/{environment['WORLD_SIZE']}"
    number, _, count = (words or "1/1").partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise UsageError(f"'{words}' is no part.", where, "Write --part 3/64, counted from 1.")


def _after(number: str, first: str) -> str:
    """Count ``number`` from 1 where ``first`` is the first one; "?" for what is no number."""
    known = number.isdecimal() and first.isdecimal()
    return str(int(number) - int(first) + 1) if known else "?"


def _system_key(system: System) -> str:
    """A hash of all of a system that decides how it speaks."""
    from wishbone.core.speak.voice import model_key
    from wishbone.core.weights.fingerprint import fingerprint

    config = json.dumps(system.config, sort_keys=True, default=str)
    parts = [config, model_key(system), fingerprint(system.decoder), str(system.model.engine)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
