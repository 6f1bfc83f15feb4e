"""``wishbone ab --page RESULT.json``: the tables and plots of a result, for a page that is read.

Everything on the page comes from the JSON file, so that a page that is kept beside it can be
checked line by line; nothing is measured again.
"""

from __future__ import annotations

import json
from pathlib import Path

from wishbone.core.config.compose import bundled
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import DataError
from wishbone.core.evaluate.again import recomputed
from wishbone.core.evaluate.report import claims, figures, tables, wording
from wishbone.core.evaluate.result import Result, from_json, to_json
from wishbone.core.report import table
from wishbone.core.report.json_file import as_text

BLOCK = "<!-- {name}: made by wishbone ab --page -->"
END = "<!-- {name}: end -->"


def write_page(path: Path, out: Path | None = None, recompute: bool = False) -> list[Path]:
    """Write ``NAME.md`` and ``NAME-*.svg`` beside the JSON file; returns the written files.

    Where a README.md in that folder has a block for this result, the tables go in there instead.
    With ``out`` the JSON is copied to ``NAME.json`` in that folder first, without this machine's
    folders in it, and the page is written there. ``recompute`` makes the statistics again first,
    from the raw values and by the present rules, and writes the JSON too. Raises ``DataError`` for
    a file that is no result.
    """
    result = read_result(path)
    folder, files = path.parent, []
    if recompute:
        result = recomputed(result)
        if out is None:
            files.append(_write(path, as_text(to_json(result))))
    if out is not None:
        folder = out
        folder.mkdir(parents=True, exist_ok=True)
        text = as_text(to_json(result))
        for machine_folder in (Path.cwd(), bundled().resolve().parent):
            text = text.replace(f"{machine_folder}/", "")
        files.append(_write(folder / f"{result.name}.json", text))
        # the page is of the copy, so that one follows from the other
        result = from_json(json.loads(text))
    for name, drawing in figures.draw(result).items():
        files.append(_write(folder / f"{result.name}-{name}.svg", drawing))
    return [*files, _place(folder, result.name, markdown(result))]


def read_result(path: Path) -> Result:
    """Read the result in a JSON file. Raises ``DataError``."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"The result cannot be read: {error}.", str(path), "Give the 'ab.json' of an A/B."
        ) from error
    try:
        return from_json(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"This JSON is no result of an A/B: {error}.", str(path), "Give its 'ab.json'."
        ) from error


def markdown(result: Result) -> str:
    """Return the block of a page: what was compared, warnings, tables and plots."""
    name = result.name
    warnings = [*claims.warnings(result), *wording.warnings(result)]
    parts = [_summary(result), *(f"**{line}**" for line in warnings), *claims.rules(result)]
    contents = [tables.sizes(result)]
    if result.factors:
        contents = [tables.cells(result), tables.effects(result), *contents]
    counted = [tables.words(result)] if result.analysis.words else []
    contents += [tables.trainings(result), *counted]
    contents += [tables.parity(result)] if result.parity else []
    contents += [tables.lengths(result), tables.failures(result)]
    for number, content in enumerate(contents):
        parts += [f"### {content.title}", table.markdown(content)]
        if result.factors and number == 0:
            parts += [tables.margins(result), f"![Every metric in every cell]({name}-figures.svg)"]
        if content.title == tables.LENGTH and result.costs.length:
            parts.append(f"![Speed and memory against length]({name}-length.svg)")
    parts += ["### What it cannot show", "\n".join(f"- {line}" for line in wording.cannot(result))]
    return "\n\n".join(parts) + "\n"


def _summary(result: Result) -> str:
    trainings = len(result.arms[0].checkpoints) or 1
    utterances = next(iter(result.raw.values.get("loss", {}).values()), [])
    held_out = f"; {len(utterances)} held-out utterances" if utterances else ""
    return (
        f"{len(result.arms)} arms, {_count(trainings, 'training')} each; "
        f"{len(result.prompts)} sentences, {_count(result.seeds, 'time')} each{held_out}; "
        f"{result.provenance.ended[:10]}, {result.costs.machine.processor}, one thread. "
        f"Command: `{' '.join(result.provenance.command)}`. "
        f"Raw values: [{result.name}.json]({result.name}.json)."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def block(text: str, name: str) -> str | None:
    """Return what stands in the block for ``name`` of a page; None where it has none."""
    begin, end = BLOCK.format(name=name), END.format(name=name)
    if begin not in text or end not in text:
        return None
    return text.split(begin, 1)[1].split(end, 1)[0].strip() + "\n"


def _place(folder: Path, name: str, content: str) -> Path:
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if block(text, name) is None:
        return _write(folder / f"{name}.md", f"# {name}\n\n{content}")
    begin, end = BLOCK.format(name=name), END.format(name=name)
    before, remaining = text.split(begin, 1)
    after = remaining.split(end, 1)[1]
    return _write(readme, f"{before}{begin}\n\n{content}\n{end}{after}")


def _write(path: Path, text: str) -> Path:
    write_text(path, text)
    return path
