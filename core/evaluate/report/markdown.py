"""``wishbone ab --page RESULT.json``: the tables and plots of a result, for a page that is read.

Everything on the page comes from the JSON file, so that a page that is kept beside it can be
checked line by line; nothing is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wishbone.core.config.compose import bundled
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import DataError
from wishbone.core.evaluate.report import figures, tables, wording

Result = Mapping[str, Any]
BLOCK = "<!-- {name}: made by wishbone ab --page -->"
END = "<!-- {name}: end -->"


def write_page(path: Path, out: Path | None = None) -> list[Path]:
    """Write ``NAME.md`` and ``NAME-*.svg`` beside the JSON file; returns what was written.

    Where a README.md in that folder has a block for this result, the tables go in there instead.
    With ``out`` the JSON is copied to ``NAME.json`` in that folder first, without this machine's
    folders in it, and the page is written there. Raises ``DataError`` for a file that is no result.
    """
    result = read_result(path)
    folder, made = path.parent, []
    if out is not None:
        folder = out
        folder.mkdir(parents=True, exist_ok=True)
        text = tables.as_text(result)
        for here in (Path.cwd(), bundled().resolve().parent):
            text = text.replace(f"{here}/", "")
        made.append(_write(folder / f"{result['name']}.json", text))
        # the page is of the copy, so that one follows from the other
        result = json.loads(text)
    for name, drawing in figures.draw(result).items():
        made.append(_write(folder / f"{result['name']}-{name}.svg", drawing))
    return [*made, _place(folder, result["name"], markdown(result))]


def read_result(path: Path) -> dict[str, Any]:
    """The result in a JSON file. Raises ``DataError``."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        known = {"name", "arms", "metrics", "values", "checkpoints", "effects"} <= result.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"The result cannot be read: {error}.", str(path), "Give the 'ab.json' of an A/B."
        ) from error
    if not known:
        raise DataError("This JSON is no result of an A/B.", str(path), "Give its 'ab.json'.")
    return result


def markdown(result: Result) -> str:
    """The block of a page: what was compared, warnings, tables and plots."""
    name, out = result["name"], []
    provenance = result["provenance"]
    count = len(result["arms"][0].get("checkpoints") or [1])
    listening = next(iter((result["raw"].get("loss") or {}).values()), [])
    out.append(
        f"{len(result['arms'])} arms, {count} training{'s' if count > 1 else ''} each; "
        f"{len(result['prompts'])} sentences, {result['seeds']} time"
        f"{'s' if result['seeds'] > 1 else ''} each"
        + (f"; {len(listening)} held-out utterances" if listening else "")
        + f"; {provenance['ended'][:10]}, {result['machine']['processor']}, one thread. "
        f"Command: `{' '.join(provenance['command'])}`. Raw values: [{name}.json]({name}.json)."
    )
    out += [f"**{line}**" for line in wording.warnings(result)]
    shown = [tables.sizes(result)]
    if result["factors"]:
        shown = [tables.cells(result), tables.effects(result), *shown]
    shown += [tables.trainings(result), tables.lengths(result), tables.failures(result)]
    for number, table in enumerate(shown):
        out += [f"### {table.title}", tables.markdown(table)]
        if result["factors"] and number == 0:
            out += [tables.margins(result), f"![Every metric in every cell]({name}-figures.svg)"]
        if table.title == tables.LENGTH and result.get("length"):
            out.append(f"![Speed and memory against length]({name}-length.svg)")
    out += ["### What it cannot show", "\n".join(f"- {line}" for line in wording.cannot(result))]
    return "\n\n".join(out) + "\n"


def block(text: str, name: str) -> str | None:
    """What stands in the block for ``name`` of a page; None where it has none."""
    begin, end = BLOCK.format(name=name), END.format(name=name)
    if begin not in text or end not in text:
        return None
    return text.split(begin, 1)[1].split(end, 1)[0].strip() + "\n"


def _place(folder: Path, name: str, made: str) -> Path:
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if block(text, name) is None:
        return _write(folder / f"{name}.md", f"# {name}\n\n{made}")
    begin, end = BLOCK.format(name=name), END.format(name=name)
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    return _write(readme, f"{before}{begin}\n\n{made}\n{end}{after}")


def _write(path: Path, text: str) -> Path:
    write_text(path, text)
    return path
