"""The text tokenizer of CosyVoice2 and 3: the byte-level BPE of Qwen2 with marks for how to speak.

Its files are in the release (``CosyVoice-BlankEN``); no id is assumed. The marks are not in the
files, they are appended in a fixed order (``QwenTokenizer`` in cosyvoice/tokenizer/tokenizer.py),
so their ids follow from how many ids the files have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from wishbone.core.contract.errors import CheckpointError, ConfigError, MissingExtra
from wishbone.core.contract.part import Layers, OneOf, Size
from wishbone.core.contract.tags import MARK
from wishbone.core.contract.text import TextSpace, Tokenizer
from wishbone.plugins.cosyvoice2 import marks
from wishbone.plugins.cosyvoice2.frontend import FrontEnd
from wishbone.plugins.cosyvoice2.release import files

PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pieces that merges never cross: contractions, words, digits, punctuation, blanks (Qwen2)."""

UNFINISHED = re.compile(r"<[|/a-z_]*|\[[\w-]*")
"""The beginning of a mark at the end of the text that has arrived."""


class CosyVoice2Tokenizer(Tokenizer):
    """Text to ids. Without a folder it has its size and no more, so that shapes can be checked.

    Raises ``CheckpointError`` for files that are missing or contradict each other and
    ``MissingExtra`` without the package ``tokenizers``; ``encode`` raises ``ConfigError`` when no
    folder is named.
    """

    @dataclass
    class Config:
        release: str | None = None
        """Folder of the release; the YAML of the system says ``${weights}``."""
        rows: Size = 151936
        """Rows of the table of text where no release says; Qwen2's 151 646 ids and spare rows."""
        normaliser: str = "auto"
        """Normaliser of numbers: "wetext", "builtin", "none"; "auto" is wetext where installed."""
        version: Annotated[str, OneOf("auto", "2", "3")] = "auto"
        """Marks of CosyVoice2 or those of CosyVoice3, which has sounds, too; "auto" asks the
        release."""
        most: Layers = 80
        """Letters of Chinese, ids of other languages, in a piece of text, ..."""
        least: Layers = 60
        """... which may end once it has this many, ..."""
        merge: Layers = 20
        """... and a last piece of fewer joins the one before."""

    def __init__(self, config: CosyVoice2Tokenizer.Config) -> None:
        self.config = config
        self.ready = bool(config.release)
        third = config.version == "3"
        if config.release and config.version == "auto":
            third = (Path(config.release) / files.THIRD).is_file()
        self._mark = marks.SOUND if third else MARK
        self._front = FrontEnd(
            config.normaliser, config.most, config.least, config.merge, self._mark
        )
        self._bpe: Any = None
        self.space = TextSpace(vocabulary=config.rows)
        if config.release:
            folder = Path(config.release) / files.TEXT
            known = marks.THIRD if third else marks.SECOND
            self._bpe, self.space = _open(folder, config.rows, known)
            if third:
                self.space = replace(self.space, opening=tuple(self.encode(marks.OPENING)))

    def encode(self, text: str) -> list[int]:
        """Encode ``text`` as it is written; marks such as ``[laughter]`` are one id each."""
        return self._ready().encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ``ids``, marks included; ids of spare rows leave no trace."""
        return self._ready().decode(list(ids), skip_special_tokens=False)

    def prepare(self, text: str) -> str:
        """Write ``text`` as it is spoken, numbers in words; see ``FrontEnd``."""
        return self._front.normalise(text)

    def pieces(self, text: str | Iterable[str]) -> Iterator[tuple[str, list[int]]]:
        """Cut a text into normalised pieces with their ids, short enough to speak in one go."""
        for piece in self._front.pieces(text, self.encode):
            if ids := self.encode(piece):
                yield piece, ids

    def settled(self, text: str) -> int:
        """Count the characters that stay as they are, whatever follows.

        That is all but the last word, an unfinished mark, and text that the normaliser may change.
        """
        words = self._ready().pre_tokenizer.pre_tokenize_str(text)
        place = words[-1][1][0] if words else 0
        for opened in re.finditer(r"[<\[]", text):
            mark = self._mark.match(text, opened.start())
            if opened.start() < place and (mark is None or mark.end() > place):
                unfinished = mark is not None or UNFINISHED.fullmatch(text, opened.start())
                # a blank in front would join the sign, were it none of a mark
                place = len(text[: opened.start()].rstrip()) if unfinished else place
        return min(place, self._front.unchanged(text))

    def closed(self, sentence: str) -> str:
        """Normalise a complete sentence, with a stop at its end, as ``pieces`` does."""
        return self._front.close(sentence)

    def _ready(self) -> Any:
        """Return the tokenizer. Raises ``ConfigError`` where no release is named."""
        if self._bpe is None:
            raise ConfigError(
                "The system names no release, so there is no text tokenizer.",
                "tokenizer.release",
                "Add weights=FOLDER, the folder CosyVoice2-0.5B with llm.pt in it.",
            )
        return self._bpe


def _open(folder: Path, rows: int, known: Sequence[str]) -> tuple[Any, TextSpace]:
    """Read the tokenizer in ``CosyVoice-BlankEN``, append ``known`` marks, and describe its ids."""
    try:
        from tokenizers import AddedToken
    except ImportError as error:
        raise MissingExtra(
            "CosyVoice2's text tokenizer needs the package 'tokenizers'.",
            "import tokenizers",
            "pip install 'wishbone-tts[cosyvoice2]'",
        ) from error
    single = folder / "tokenizer.json"
    bpe = _from_single_file(single) if single.is_file() else _from_parts(folder)
    bpe.add_special_tokens([AddedToken(m, special=True, normalized=False) for m in known])
    bpe.no_padding()
    bpe.no_truncation()
    config = folder / "config.json"
    rows = int(_json(config).get("vocab_size", rows)) if config.is_file() else rows
    count = bpe.get_vocab_size(with_added_tokens=True)
    ids = {mark: bpe.token_to_id(mark) for mark in known}
    if count > rows or max(ids.values()) >= rows:
        raise CheckpointError(
            f"The tokenizer has {count} ids, the release's table of text {rows} rows.",
            str(folder),
            "Use the files of one release.",
        )
    return bpe, TextSpace(vocabulary=rows, specials=ids, blank=ids["<|endoftext|>"])


def _from_single_file(path: Path) -> Any:
    """Build it from ``tokenizer.json``."""
    from tokenizers import Tokenizer as Bpe

    try:
        return Bpe.from_file(str(path))
    except Exception as error:
        raise _unreadable(path, error) from error


def _from_parts(folder: Path) -> Any:
    """Build it from ``vocab.json`` and ``merges.txt``, as transformers' ``Qwen2Tokenizer``."""
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Bpe

    vocabulary = files.file_of(folder, "vocab.json", "the text tokenizer's ids")
    merges = files.file_of(folder, "merges.txt", "the text tokenizer's merges")
    try:
        bpe = Bpe(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:
        raise _unreadable(vocabulary, error) from error
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    for number, row in sorted(_added(folder).items()):
        bpe.add_special_tokens([AddedToken(row, special=True, normalized=False)])
        if bpe.token_to_id(row) != number:
            raise CheckpointError(
                f"The tokenizer gives {row!r} the id {number}, but its files have"
                f" {bpe.token_to_id(row)} ids before it.",
                str(folder / "tokenizer_config.json"),
                "Use the files of one release; those of a Qwen2.5 number their marks differently.",
            )
    return bpe


def _added(folder: Path) -> dict[int, str]:
    """Read id -> mark of every mark that the files name."""
    marks: dict[int, str] = {}
    config, added = folder / "tokenizer_config.json", folder / "added_tokens.json"
    if config.is_file():
        rows = _json(config).get("added_tokens_decoder", {})
        marks |= {int(number): str(row["content"]) for number, row in rows.items()}
    if added.is_file():
        marks |= {int(number): str(mark) for mark, number in _json(added).items()}
    return marks


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ``CheckpointError``."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"The text tokenizer cannot be read: {str(error)[:200]}.",
        str(path),
        "Download the release again.",
    )
