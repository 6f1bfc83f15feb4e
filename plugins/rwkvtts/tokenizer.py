"""The text tokenizer of RWKVTTS: RWKV's World vocabulary with CosyVoice2's marks behind it.

The vocabulary file (``rwkv_vocab_v20230424.txt``) is in the release and is read as data: a line is
an id, a Python literal of the token, and its length in bytes. Text is cut greedily into the longest
tokens. Ids of marks are those in the release's files; marks they do not name follow in the
order of RWKVTTS (``get_tokenizer`` in utils/utilities.py).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.contract.errors import CheckpointError, ConfigError
from wishbone.core.contract.part import Layers, Size
from wishbone.core.contract.text import TextSpace, Tokenizer
from wishbone.plugins.cosyvoice2.frontend import FrontEnd
from wishbone.plugins.cosyvoice2.release import files, settings
from wishbone.plugins.rwkvtts.release import CONVERTED

VOCABULARY = "rwkv_vocab_v20230424.txt"
FOLDERS = (CONVERTED, files.TEXT, ".")
"""Folders of a release that may hold the vocabulary, in the order of search."""
PAD = "<|rwkv_tokenizer_end_of_text|>"
MARKS = (
    PAD, "<|endofprompt|>", "[breath]", "<strong>", "</strong>", "[noise]", "[laughter]", "[cough]",
    "[clucking]", "[accent]", "[quick_breath]", "<laughter>", "</laughter>", "[hissing]", "[sigh]",
    "[vocalized-noise]", "[lipsmack]", "[mn]",
)  # fmt: skip
"""Marks in the order in which RWKVTTS adds them."""
MOST_ROWS = 1 << 20
"""Limit of ids, beyond which a vocabulary is a mistake: World has 65 530."""


class WorldTokenizer(Tokenizer):
    """Text to ids. Without a folder it has its size and no more, so that shapes can be checked.

    Raises ``CheckpointError`` for files that are missing or contradict each other; ``encode``
    raises ``ConfigError`` when no folder is named.
    """

    @dataclass
    class Config:
        release: str | None = None
        """Folder of the release; the YAML of the system says ``${weights}``."""
        rows: Size = 65548
        """Rows of the table of text where the release's YAML says nothing: the World vocabulary,
        CosyVoice2's marks."""
        marks: bool = True
        """True gives CosyVoice2's marks ids of their own; ReSpark has none."""
        normaliser: str = "auto"
        """Normaliser of numbers: "wetext", "builtin", "none"; "auto" is wetext where installed."""
        most: Layers = 80
        """Letters of Chinese, ids of other languages, in a piece of text, ..."""
        least: Layers = 60
        """... which may end once it has this many, ..."""
        merge: Layers = 20
        """... and a last piece of fewer joins the one before."""

    def __init__(self, config: WorldTokenizer.Config) -> None:
        self.config = config
        self.ready = bool(config.release)
        self._front = FrontEnd(config.normaliser, config.most, config.least, config.merge)
        self._tokens: dict[bytes, int] = {}
        self.space = TextSpace(vocabulary=config.rows)
        if config.release:
            self._open(Path(config.release))

    def encode(self, text: str) -> list[int]:
        """Encode ``text`` as it is written; marks such as ``[laughter]`` are one id each."""
        self._ready()
        ids: list[int] = []
        if not text.strip():
            return ids
        for piece in self._split(text):
            mark = self.space.specials.get(piece)
            ids += [mark] if mark is not None else self._greedy(piece.encode("utf-8", "replace"))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ``ids``, marks included; ids of spare rows leave no trace."""
        self._ready()
        return b"".join(self._bytes.get(row, b"") for row in ids).decode("utf-8", "replace")

    def prepare(self, text: str) -> str:
        """Write ``text`` as it is spoken, numbers in words; see ``FrontEnd``."""
        return self._front.normalise(text)

    def pieces(self, text: str | Iterable[str]) -> Iterator[tuple[str, list[int]]]:
        """Cut a text into normalised pieces with their ids, short enough to speak in one go."""
        for piece in self._front.pieces(text, self.encode):
            if ids := self.encode(piece):
                yield piece, ids

    def _open(self, folder: Path) -> None:
        """Read the vocabulary and the marks of the release in ``folder``."""
        place = next((folder / n for n in FOLDERS if (folder / n / VOCABULARY).is_file()), None)
        if place is None:
            raise CheckpointError(
                f"The release has no {VOCABULARY}.",
                str(folder),
                f"Put it into {files.TEXT} or beside the weights.",
            )
        self._tokens = _read(place / VOCABULARY)
        marks = _marks(place, max(self._tokens.values()) + 1, MARKS if self.config.marks else ())
        self._bytes = {row: token for token, row in self._tokens.items()}
        self._bytes |= {row: mark.encode() for mark, row in marks.items()}
        self._lengths: dict[int, list[int]] = {}
        for token in self._tokens:
            self._lengths.setdefault(token[0], []).append(len(token))
        self._lengths = {b: sorted(set(n), reverse=True) for b, n in self._lengths.items()}
        self._split_at = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))
        model = settings.read(folder).get("llm")
        rows = model.get("vocab_size") if isinstance(model, dict) else None
        rows = rows if isinstance(rows, int) and rows else self.config.rows
        highest = max(self._bytes)
        if highest >= rows:
            raise CheckpointError(
                f"The tokenizer has ids up to {highest}, the release's table of text {rows} rows.",
                str(place),
                "Use the files of one release, or set tokenizer.rows to what its table has.",
            )
        self.space = TextSpace(vocabulary=rows, specials=marks, blank=marks.get(PAD))

    def _split(self, text: str) -> Iterator[str]:
        """Cut ``text`` into marks and the stretches between them."""
        begin = 0
        for match in self._split_at.finditer(text) if self.space.specials else ():
            yield text[begin : match.start()]
            yield match[0]
            begin = match.end()
        yield text[begin:]

    def _greedy(self, data: bytes) -> Iterator[int]:
        """Take the longest token that fits, again and again; every byte is a token by itself."""
        at = 0
        while at < len(data):
            for length in self._lengths[data[at]]:
                row = self._tokens.get(data[at : at + length])
                if row is not None and at + length <= len(data):
                    yield row
                    at += length
                    break

    def _ready(self) -> None:
        """Raise ``ConfigError`` unless a release was read."""
        if not self._tokens:
            raise ConfigError(
                "The system names no release, so there is no text tokenizer.",
                "tokenizer.release",
                "Add weights=FOLDER, the folder of the RWKVTTS release.",
            )


def _read(path: Path) -> dict[bytes, int]:
    """Read token -> id. Raises ``CheckpointError`` for a broken line and for a missing byte."""
    tokens: dict[bytes, int] = {}
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        first, last = line.find(" "), line.rfind(" ")
        try:
            row, token = int(line[:first]), ast.literal_eval(line[first + 1 : last])
            token = token.encode() if isinstance(token, str) else bytes(token)
            valid = len(token) == int(line[last + 1 :]) > 0 <= row < MOST_ROWS
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            valid, token, row = False, b"", 0
        if not valid or token in tokens:
            raise CheckpointError(
                "This line of the vocabulary is no id, token and length.",
                f"{path}:{number}",
                "Use the file of the release as it was published.",
            )
        tokens[token] = row
    missing = [byte for byte in range(256) if bytes([byte]) not in tokens]
    if missing:
        raise CheckpointError(
            f"The vocabulary has no token for {len(missing)} of the 256 bytes.",
            str(path),
            "Use the file of the release as it was published.",
        )
    return tokens


def _marks(folder: Path, count: int, expected: Sequence[str]) -> dict[str, int]:
    """Read mark -> id from the files, then append the missing ones of ``expected``."""
    ids: dict[str, int] = {}
    rows = _json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    try:
        ids |= {str(row["content"]): int(number) for number, row in rows.items()}
        ids |= {str(m): int(n) for m, n in _json(folder / "added_tokens.json").items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"The marks of the tokenizer cannot be read: {error!r}.",
            str(folder),
            "Use the files of the release as they were published.",
        ) from error
    ids = {mark: row for mark, row in ids.items() if mark and row < MOST_ROWS}
    following = max([count - 1, *ids.values()])
    for mark in expected:
        if mark not in ids:
            following += 1
            ids[mark] = following
    return ids


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where the file is missing. Raises ``CheckpointError``."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"The text tokenizer cannot be read: {error}.", str(path), "Download it again."
        ) from error
