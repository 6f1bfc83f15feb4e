"""``wishbone evaluate peers``: systems beside what a user might take instead, in one table.

The contenders are those of a suite of ``wishbone bench`` that speak. Each has a process of its own
and reads every sentence once: new text, as from a user, with nothing remembered of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from wishbone.core.bench.built_in.speaking import WARM_UP, SpeakingContender
from wishbone.core.bench.protocol import ContenderLost, Worker
from wishbone.core.bench.suite import Entry, Plan, read_plan
from wishbone.core.cli.evaluation.evaluate_options import PeersOptions
from wishbone.core.cli.evaluation.output import keep
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.extensions.contender import Job
from wishbone.core.contract.extensions.metric import Row
from wishbone.core.evaluate.measure.clips import read_folder
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.evaluate.prompts.prompt_lists import find_prompts, read_prompts
from wishbone.core.evaluate.statistics.metrics import QUALITY, metric_class, need_packages, value
from wishbone.core.evaluate.statistics.metrics import weight as weight_of
from wishbone.core.evaluate.statistics.paired import bootstrap
from wishbone.core.report import table
from wishbone.core.report.progress import progress, say

MEBIBYTE = 1 << 20
COLUMNS = ("wer", "wer_base", "dnsmos")
"""Metrics of the table; a metric that is not installed has no column."""


@dataclass
class Peer:
    """One synthesiser, as far as it got."""

    entry: Entry
    facts: dict[str, Any] = field(default_factory=dict)
    times: list[dict[str, float]] = field(default_factory=list)
    """Of every sentence: ``rtf``, ``work``, ``first_audio``; {} where nothing was heard."""
    peak_bytes: int = 0
    why: str = ""
    """Reason why it takes no part, or ""."""
    rows: list[Row] = field(default_factory=list)
    """Every recording, judged."""


def compare_peers(options: PeersOptions) -> int:
    """Let every contender speak the sentences, judge the recordings, and print the table."""
    judges = [key for key in COLUMNS if key in QUALITY]
    need_packages(judges)
    plan = read_plan(options.suite, options.set)
    peers = [Peer(entry, why=entry.missing) for entry in _speaking(plan)]
    prompts = read_prompts(find_prompts(options.text))[: options.limit]
    texts = [prompt.text for prompt in prompts]
    with _folder(options.out) as folder:
        _speak(peers, plan, texts, folder)
        panel = Panel(options.threads, judges)
        for peer in peers:
            if not peer.why:
                clips = read_folder(folder / peer.entry.key, texts)
                scores = panel.map(lambda scorer, clip: scorer.score(clip), clips)
                bar = progress(clips, f"listening to {peer.entry.title}")
                peer.rows = [row for _, row in zip(bar, scores, strict=True)]
        table.show(peers_table(peers, judges))
        _say_what_counts(peers, len(texts))
        figures = [
            {"key": p.entry.key, "title": p.entry.title, "left_out": p.why, "facts": p.facts,
             "peak_bytes": p.peak_bytes, "times": p.times, "items": p.rows}
            for p in peers
        ]  # fmt: skip
        keep(options.json, panel, {"sentences": texts, "peers": figures})
    return 0


def peers_table(peers: Sequence[Peer], judges: Sequence[str]) -> table.Table:
    """One line for each synthesiser that spoke."""
    spoke = [peer for peer in peers if not peer.why]
    titles = [f"{metric_class(key).info.title} ({metric_class(key).info.unit})" for key in judges]
    head = [
        "synthesiser", *titles, "work (s/s)", "first sound (ms)", "memory (MiB)", "on disk (MiB)",
        "parameters (M)", "failed", "licence",
    ]  # fmt: skip
    return table.Table("", head, [_line(peer, judges) for peer in spoke], words=("licence",))


def _line(peer: Peer, judges: Sequence[str]) -> list[str]:
    facts = peer.facts

    def middle(name: str, factor: float = 1.0) -> float:
        return factor * median(times[name] for times in peer.times if name in times)

    heard = any(peer.times)
    return [
        peer.entry.title,
        *(_value(peer.rows, key) for key in judges),
        f"{middle('work'):.3f}" if heard else "-",
        f"{middle('first_audio', 1000):.0f}" if heard else "-",
        f"{peer.peak_bytes / MEBIBYTE:.0f}",
        f"{facts['disk_bytes'] / MEBIBYTE:.0f}" if facts.get("disk_bytes") else "-",
        f"{facts['parameters'] / 1e6:.1f}" if facts.get("parameters") else "-",
        str(sum(bool(row["failure"]) for row in peer.rows)),
        str(facts.get("licence") or "-"),
    ]


def _value(rows: Sequence[Row], key: str) -> str:
    """A metric over all recordings, with the interval of 95 % over sentences."""
    info = metric_class(key).info
    pairs = [(value(row, info), weight_of(row, info)) for row in rows]
    numbers = [(number, size) for number, size in pairs if number is not None]
    if not numbers:
        return "-"
    interval = bootstrap([number for number, _ in numbers], [size for _, size in numbers])
    digits = info.digits
    return (
        f"{interval.estimate:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"
    )


def _speaking(plan: Plan) -> list[Entry]:
    """Contenders that speak. Raises ``UsageError`` for a suite without any."""
    speaking = [
        entry for entry in plan.entries.values() if issubclass(entry.contender, SpeakingContender)
    ]
    if not speaking:
        raise UsageError(
            f"No contender of the suite '{plan.name}' speaks.",
            "wishbone evaluate peers",
            "Name a suite whose contenders give sound, such as 'peers' or 'speech'.",
        )
    return speaking


def _speak(peers: Sequence[Peer], plan: Plan, texts: Sequence[str], folder: Path) -> None:
    """All sentences by all peers, in turn; who fails is left out from then on."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for peer in peers:
            if not peer.why:
                workers[peer.entry.key] = worker = _worker(peer, plan, texts, folder)
                stack.callback(worker.close)
                with _losing(peer):
                    peer.facts = worker.load()
                    # what is built or read on first use
                    worker.run(WARM_UP, 1)
            if peer.why:
                say(f"{peer.entry.title}: left out, {peer.why}")
        for number, _ in enumerate(progress(texts, "speaking")):
            turn = number % max(1, len(peers))
            for peer in [*peers[turn:], *peers[:turn]]:
                if not peer.why:
                    with _losing(peer):
                        times = workers[peer.entry.key].run(f"sentence {number}", 1).measured
                        peer.times.append({name: own[0] for name, own in times.items() if own})
        for peer in peers:
            if not peer.why:
                with _losing(peer):
                    peer.peak_bytes = workers[peer.entry.key].prepare("")["peak_bytes"]


def _worker(peer: Peer, plan: Plan, texts: Sequence[str], folder: Path) -> Worker:
    entry = peer.entry
    model = {"sentences": list(texts), "folder": str(folder / entry.key)}
    job = Job({**plan.suite.model, **model}, plan.suite.device, plan.suite.threads)
    return Worker(entry.key, entry.part, asdict(entry.config), job)


@contextmanager
def _losing(peer: Peer) -> Iterator[None]:
    """Note why a peer cannot go on."""
    try:
        yield
    except ContenderLost as lost:
        peer.why = str(lost)
        say(f"{peer.entry.title}: left out, {lost}")


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """The folder of the recordings. Raises ``UsageError`` where it holds something already."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="wishbone-peers-") as folder:
            yield Path(folder)
        return
    if out.exists() and any(out.iterdir()):
        raise UsageError(
            "The folder of the recordings is not empty.", str(out), "Choose another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    yield out


def _say_what_counts(peers: Sequence[Peer], count: int) -> None:
    spoke = [peer for peer in peers if not peer.why]
    say(
        f"{count} sentences that are new to everyone, one thread each; work is processor time for"
        " one second of sound, a median like the first sound; memory is the most that a process"
        " held; intervals are of 95 % over sentences. No verdicts: voices, data and sizes differ."
    )
    for peer in spoke:
        facts = peer.facts
        say(f"{peer.entry.title}: {facts.get('engine', '')} {facts.get('version', '')}".rstrip())
