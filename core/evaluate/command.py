"""``wishbone evaluate``: measure a folder of recordings, a system, a codec or a model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wishbone.core.evaluate.clips import Clip, read_audio, read_folder, read_lines
from wishbone.core.evaluate.score import Panel, summarize
from wishbone.core.evaluate.terminal import progress


def main(argv: list[str] | None = None) -> int:
    """Run ``wishbone evaluate``; returns the exit code."""
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wishbone evaluate", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="WHAT")
    audio = commands.add_parser("audio", help="a folder of recordings against lines of text")
    audio.add_argument("folder", type=Path)
    audio.add_argument("--text", type=Path, required=True, help="one sentence a line")
    _common(audio)
    audio.set_defaults(run=_audio)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, help="only the first so many")
    parser.add_argument("--voice", type=Path, help="a recording of the voice to compare with")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--json", type=Path, help="write every clip's numbers here")
    parser.add_argument("--items", action="store_true", help="print every clip's line")


def _audio(options: argparse.Namespace) -> int:
    clips = read_folder(options.folder, read_lines(options.text), options.limit)
    panel = Panel(options.threads)
    if options.voice:
        audio, rate = read_audio(options.voice)
        panel.hear(panel.first.embed([Clip("voice", "", audio, rate)]))
    judged = panel.map(lambda scorer, clip: scorer.score(clip), clips)
    rows = [row for _, row in zip(progress(clips, "listening"), judged, strict=True)]
    report(str(options.folder), rows, options.items)
    if options.json:
        write_json(options.json, {"signatures": panel.first.signatures, "items": rows})
    return 0


def report(title: str, rows: Sequence[dict[str, Any]], items: bool = False) -> None:
    """Print the numbers of a set of clips, and each clip's when ``items``."""
    if items:
        for row in rows:
            print(
                f"{row['key']:>8}  {row['errors']:>3}/{row['words']:<3} {row['dnsmos']:.2f}  "
                f"{row['failure'] or row['heard']}"
            )
    total = summarize(rows)
    like = f"  similarity {total['similarity']:.3f}" if "similarity" in total else ""
    print(
        f"{title}: word errors {total['wer']:.1f} % (mean of clips {total['wer_mean']:.1f} %)"
        f"  DNSMOS {total['dnsmos']:.2f}{like}  failures {total['failures']:.0f}"
        f"  clips {total['clips']:.0f}  audio {total['seconds']:.0f} s"
    )


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` by way of a temporary file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
