"""``plan.json``: what an A/B fixes before its first item, and whether it was kept.

Margins and primary metrics that are chosen when the result is known, and prompts that are added
until there is a verdict, make any result possible. So the choice is written down first, with a
hash, and an analysis that does otherwise is refused, or says so.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wishbone.core.config.text_files import read_json
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.record import read_record, record_json
from wishbone.core.evaluate.result_parts import Commitment, Protocol
from wishbone.core.evaluate.statistics.looks import part_of
from wishbone.core.evaluate.statistics.verdict import ALPHA
from wishbone.core.report.json_file import as_text

FILE = "plan.json"


def protocol_of(plan: Plan) -> Protocol:
    """What a plan fixes. Its looks end with the prompts that it speaks, where it names none."""
    metrics = plan.listening | plan.metrics
    return Protocol(
        primary=[key for key, metric in metrics.items() if metric.primary],
        margins={key: m.margin for key, m in metrics.items() if m.margin is not None},
        looks=list(plan.looks) or [len(plan.prompts)],
        seeds=plan.seeds,
        alpha=ALPHA,
        prompts=[hashlib.sha256(one.text.encode()).hexdigest()[:8] for one in plan.prompts],
    )


def commit(plan: Plan, out: Path, *, begun: bool, allow: bool) -> Commitment:
    """Write the protocol of a run, or hold the plan against the one that was written.

    ``begun``: there are items in the folder. A plan that was written when there were none may be
    replaced until there are some. Raises ``UsageError`` where a plan asks for another analysis of
    items that are there, unless ``allow``: then the differences are listed.
    """
    path, wanted = out / FILE, protocol_of(plan)
    do = "Choose another --out: nobody can tell any more what was planned."
    stored = read_json(path, do) if path.exists() else None
    if stored is None or not begun:
        stored = {
            "protocol": record_json(wanted),
            "digest": digest(wanted),
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "before_data": not begun,
        }
        write_text(path, as_text(stored))
    protocol = _read(stored, path)
    changed = _changes(protocol, wanted, len(plan.prompts))
    if changed and not allow:
        raise UsageError(
            f"The run's plan was written before its data and says otherwise: {'; '.join(changed)}.",
            str(path),
            "Ask for what was planned, or choose another --out; --allow goes on, and the report"
            " says that this was changed after the data.",
        )
    look, alpha = part_of(protocol.looks, len(plan.prompts), protocol.alpha)
    if plan.seeds != protocol.seeds:
        look, alpha = 0, 0.0
    return Commitment(
        protocol=protocol,
        digest=stored["digest"],
        written=stored["written"],
        before_data=stored["before_data"],
        changed=changed,
        prompts=len(plan.prompts),
        look=look,
        alpha=alpha,
    )


def digest(protocol: Protocol) -> str:
    """SHA-256 of a protocol."""
    text = json.dumps(record_json(protocol), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(stored: Mapping[str, Any], path: Path) -> Protocol:
    protocol = read_record(Protocol, stored["protocol"])
    if digest(protocol) != stored["digest"]:
        raise UsageError(
            "The plan was edited: it is not what its hash is of.",
            str(path),
            "Put back the plan as it was written, or choose another --out.",
        )
    return protocol


def _changes(protocol: Protocol, wanted: Protocol, prompts: int) -> list[str]:
    """Say what another protocol changes; more prompts are a look that was not planned, not this."""
    if wanted.looks == [prompts]:
        wanted = replace(wanted, looks=protocol.looks)
    lines = [
        f"{name} {before} -> {after}"
        for name in ("primary", "looks", "alpha")
        if (before := getattr(protocol, name)) != (after := getattr(wanted, name))
    ]
    pairs = zip(protocol.prompts or [], wanted.prompts or [], strict=False)
    others = sum(before != after for before, after in pairs)
    if others:
        lines.append(f"prompts: {others} have another text")
    keys = [*protocol.margins, *(key for key in wanted.margins if key not in protocol.margins)]
    return lines + [
        f"margins.{key} {_margin(protocol, key)} -> {_margin(wanted, key)}"
        for key in keys
        if protocol.margins.get(key) != wanted.margins.get(key)
    ]


def _margin(protocol: Protocol, key: str) -> str:
    return f"{protocol.margins[key]:g}" if key in protocol.margins else "none"
