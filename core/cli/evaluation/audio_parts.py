"""``wishbone evaluate audio --executor`` and ``--part``: recordings judged by many processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from wishbone.core.cli.bulk.parts import do_in_parts
from wishbone.core.cli.evaluation.evaluate_options import AudioOptions
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.extensions.metric import Row
from wishbone.core.evaluate.clip_step import ClipStep
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.evaluate.statistics.metrics import QUALITY
from wishbone.core.scale.part_process import launched
from wishbone.core.scale.share import which_part
from wishbone.core.scale.step import do_part


def judge_in_parts(
    options: AudioOptions,
    words: Sequence[str],
    files: Sequence[tuple[Path, str]],
    open_panel: Callable[[], Panel],
) -> list[Row] | None:
    """Judge recordings in parts below ``--out`` -> all rows, or None where others have to end.

    ``words`` stand behind ``wishbone evaluate``. Raises ``UsageError`` without ``--out``.
    """
    if options.out is None:
        raise UsageError(
            "Parts need a folder for what they find.",
            "wishbone evaluate audio",
            "Add --out FOLDER, one that all parts see.",
        )
    metrics = list(dict.fromkeys([*QUALITY, *options.metrics]))
    step = ClipStep(options.out, files, metrics, open_panel)
    _, count = which_part(options.part, os.environ)
    do_in_parts(options, ["evaluate", *words], lambda: _begun(step), _judge_part)
    return None if count > 1 or launched() or step.unfinished() else step.rows()


def _begun(step: ClipStep) -> ClipStep:
    step.prepare()
    return step


def _judge_part(step: ClipStep, part: int, parts: int) -> int:
    work = do_part(step, part, parts)
    left = step.unfinished()
    remaining = f"{left} are left to other parts" if left else "all are judged"
    print(f"part {part} of {parts}: {work.items} recordings; {remaining}", file=sys.stderr)
    return 0
