"""Texts that arms were trained on, and which sentences of an A/B stand among them.

Weights name their training's files and a hash of their contents (``provenance.json``). Where files
of that hash are at hand, under the recipe's paths or among the bundled tokens, their texts are
compared with the sentences by the rules of ``contamination``; of other files nothing is known, and
the result says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wishbone.core.config.compose import bundled
from wishbone.core.contract.errors import WishboneError
from wishbone.core.data.parquet import TEXT, read_table
from wishbone.core.data.tokens import parquet_files
from wishbone.core.evaluate.prompts import contamination
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.result_parts import SeenPrompts
from wishbone.core.weights.provenance import hash_files

Record = Mapping[str, Any]
"""What a ``provenance.json`` holds."""


def seen_prompts(
    prompts: Sequence[Prompt], records: Iterable[tuple[str, Record]]
) -> list[SeenPrompts]:
    """Compare prompts with the texts of every training.

    ``records`` are an arm and the record of one set of its weights, {} where there is none.
    Trainings on the same files are one entry. Weights without a record have an entry without a
    hash.
    """
    by_hash: dict[str, tuple[list[str], list[str]]] = {}
    for arm, record in records:
        for digest, paths in _stages(record) or [("", [])]:
            arms, known = by_hash.setdefault(digest, ([], []))
            arms.extend({arm} - set(arms))
            known.extend(path for path in paths if path not in known)
    return [
        _seen(prompts, digest, arms, find_texts(digest, paths))
        for digest, (arms, paths) in by_hash.items()
    ]


def find_texts(digest: str, paths: Sequence[str]) -> list[str] | None:
    """Texts of the token data whose contents have this hash; None where they are not at hand.

    ``paths`` are those of the training's recipe. Where nothing lies there any more, files of the
    same names are tried in every folder of bundled tokens.
    """
    if not digest:
        return None
    names = [Path(path).name for path in paths]
    shelves = sorted(folder for folder in (bundled() / "tokens").glob("*") if folder.is_dir())
    for candidates in ([*paths], *([str(shelf / name) for name in names] for shelf in shelves)):
        try:
            files = [file for path in candidates for file in parquet_files(path)]
            if files and hash_files(files) == digest:
                return [text for file in files for text in _texts(file)]
        except (OSError, WishboneError):
            continue
    return None


def _texts(file: Path) -> list[str]:
    do = "Remove it or write it again; this comparison goes on without it."
    return read_table(file, {"text": TEXT}, do=do).column("text").to_pylist()


def _stages(record: Record) -> list[tuple[str, list[str]]]:
    """Hash and paths of the data of every training, the last one first."""
    notes = record.get("notes") or {}
    trainings = [
        (record.get("data"), notes.get("recipe")),
        *((stage.get("data"), stage.get("recipe")) for stage in notes.get("before") or []),
    ]
    return [(digest, _paths((recipe or {}).get("data"))) for digest, recipe in trainings if digest]


def _paths(data: Any) -> list[str]:
    return [data] if isinstance(data, str) else [str(path) for path in data or []]


def _seen(
    prompts: Sequence[Prompt], digest: str, arms: list[str], texts: list[str] | None
) -> SeenPrompts:
    if texts is None:
        return SeenPrompts(arms=arms, data=digest, texts=None, seen=[], partly=[], short=[])
    matches = contamination.overlaps([prompt.text for prompt in prompts], texts)
    keys: dict[str, list[str]] = {"seen": [], "partly": [], "short": []}
    for match in matches:
        prompt = prompts[match.sentence]
        few = len(contamination.words_of(prompt.text)) < contamination.SHORT
        keys["short" if few else "seen" if match.whole else "partly"].append(prompt.key)
    return SeenPrompts(arms=arms, data=digest, texts=len(texts), **keys)
