"""Tables of many arms: parted, so that a terminal and a page of 1280 or 390 pixels hold them."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from test_report import finished, with_more_arms  # noqa: F401 - the fixture is used by name

from wishbone.core.evaluate.report import claims, html, tables, terminal
from wishbone.core.report import table
from wishbone.core.report.table import Table

AB = "install the extra: pip install wishbone-tts[ab]"
NAMES = [f"mixer-number-{n}" for n in range(12)]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
MEASURE = """<script>
const tables = [...document.querySelectorAll(".scroll")];
const wide = tables.filter(e => e.scrollWidth > e.clientWidth + 1);
const page = document.documentElement;
document.body.dataset.seen = `${wide.length}/${Math.max(0, page.scrollWidth - page.clientWidth)}`;
</script></body>"""


def wide(columns, rows=2):
    head = ["", *(f"arm {n}" for n in range(columns))]
    return Table(
        "T", head, [[f"row {r}", *(str(r * n) for n in range(columns))] for r in range(rows)]
    )


def test_a_table_of_many_columns_is_parted_and_keeps_every_cell():
    assert wide(8).blocks() == [wide(8)]
    parts = wide(14).blocks()
    assert [len(part.head) for part in parts] == [6, 6, 5]
    assert [part.title for part in parts] == ["T", "", ""]
    for number, row in enumerate(wide(14).rows):
        assert [cell for part in parts for cell in part.rows[number][1:]] == row[1:]
        assert all(part.rows[number][0] == row[0] for part in parts)
    # a colour belongs to the last cell of a row
    coloured = Table("T", wide(14).head, wide(14).rows, (), ["better", "worse"])
    assert [part.verdicts for part in coloured.blocks()] == [(), (), ["better", "worse"]]


def test_a_terminal_shows_fourteen_arms_without_breaking_a_word(finished, capsys):  # noqa: F811
    pytest.importorskip("rich", reason=AB)
    result = with_more_arms(finished[0], NAMES)
    terminal.show(result)
    shown = capsys.readouterr().out
    budget = shown.split("Budget")[1].split("mixer-number-0 compared")[0]
    assert all(len(line) <= table.PIPE_WIDTH for line in budget.splitlines())
    # each name stands in one piece, once
    assert all(len(re.findall(rf"{name}\b", budget)) == 1 for name in NAMES)
    assert budget.count("parameters that were trained") == 3


def test_the_first_sentence_counts_the_verdicts_of_many_arms(finished):  # noqa: F811
    result = with_more_arms(finished[0], NAMES)
    row = next(row for row in result.analysis.comparisons if row.arm == NAMES[0])
    better = replace(row, outcome=replace(row.outcome, verdict="better"))
    rows = [better if one is row else one for one in result.analysis.comparisons]
    result = replace(result, analysis=replace(result.analysis, comparisons=rows))
    sentence = claims.headline(result)
    title = result.metrics[row.metric].title
    assert f"13 arms against old: {title}: " in sentence
    assert f"1 better ({NAMES[0]})" in sentence and "12 inconclusive" in sentence
    assert len(sentence) < 300
    # of few arms each is described
    assert "13 arms" not in claims.headline(finished[0])


@pytest.mark.skipif(not BROWSER, reason="a Chromium browser")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_of_fourteen_arms_needs_no_scrolling(finished, width, tmp_path):  # noqa: F811
    for package in ("jinja2", "matplotlib", "whisper_normalizer"):
        pytest.importorskip(package, reason=AB)
    result, items, out = finished
    result = with_more_arms(result, NAMES)
    assert len(tables.every_arm(result).head) == 15
    text = html.write_report(result, items, out).read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", MEASURE), encoding="utf-8")
    # a phone's width cannot be asked of a window, so the page is shown in a frame of it
    frame = tmp_path / "frame.html"
    script = (
        "onload = () => setTimeout(() => {"
        " document.body.dataset.seen = f.contentDocument.body.dataset.seen }, 500)"
    )
    frame.write_text(
        f'<iframe id="f" src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
        f"<script>{script}</script>"
    )
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    done = subprocess.run(
        [BROWSER, *words, "--virtual-time-budget=20000", "--window-size=1400,1000", "--dump-dom",
         f"file://{frame}"],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    (seen,) = re.findall(r'data-seen="(\d+/\d+)"', done.stdout)
    assert seen == "0/0"
