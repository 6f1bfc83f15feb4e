"""What a run leaves: data of a fixed form, a table, and one HTML file that needs nothing else."""

import json
import re
import sys
from base64 import b64decode
from html.parser import HTMLParser

import pytest
from bench_toys import TOY, Toy, ToyConfig

from wishbone.core.bench.analysis import now, suite_result, whole_result
from wishbone.core.bench.page import TEMPLATE, context, write_page
from wishbone.core.bench.protocol import Round
from wishbone.core.bench.records import FORMAT, BenchResult, as_data, write_result
from wishbone.core.bench.rounds import Outcome, Standing
from wishbone.core.bench.suite import Entry, Plan, RatioConfig, SuiteConfig
from wishbone.core.bench.summary import show
from wishbone.core.config.compose import bundled
from wishbone.core.evaluate.record import read_record
from wishbone.core.report.html_page import render

TITLE = "Theirs & <ours>"


def page(result):
    return render(TEMPLATE, context(result))


def standing(key, seconds, status="measured", **facts):
    cases = ["context 16", "context 64"]
    entry = Entry(key, TOY, ToyConfig(), TITLE, cases, 1e-4, True)
    rounds = {
        case: [
            Round(measured={"seconds": [seconds, seconds]}, wall=1.0, busy=0.7, switches=0)
            for _ in range(6)
        ]
        for case in cases
    }
    sizes = {case: {"state_bytes": 4096, "resident_bytes": 9} for case in cases}
    return Standing(entry, status, "why not" if status != "measured" else "", facts, sizes, rounds)


@pytest.fixture
def result():
    suite = SuiteConfig(
        about="Toys <and> more",
        cases=["context 16", "context 64"],
        contenders={"a": {}, "b": {}, "gone": {}},
        ratios=[
            RatioConfig("a against b", "a@context 16", "b@context 16", at_least=1.5, stretch=3),
            RatioConfig("flat", "a@context 64", "a@context 16", at_most=1.05),
            RatioConfig("gone", "gone@context 16", "a@context 16", at_least=1.0),
        ],
        plots={"Time": "across context", "Bars": "context 16"},
    )
    standings = {
        "a": standing("a", 0.02, engine="toy", version="1"),
        "b": standing("b", 0.01),
        "gone": Standing(Entry("gone", TOY, ToyConfig(), "Gone", [], 0, True), "missing",
                         "not installed: pip install gone"),
    }  # fmt: skip
    plan = Plan("toys", suite, {key: each.entry for key, each in standings.items()})
    suites = [suite_result(plan, Outcome(standings, [0.5] * 6))]
    return whole_result([plan], suites, now(), ["toys"], quick=False)


FORM = {
    "format": str, "began": str, "ended": str, "command": str, "quick": bool, "machine": dict,
    "versions": dict, "suites": list, "outcome": str, "verdict": str,
}  # fmt: skip
SUITE = {
    "name": str, "about": str, "quick": bool, "stopped": str, "config": dict, "contenders": dict,
    "loads": list, "limits": dict, "rows": list, "ratios": list,
}  # fmt: skip
CONTENDER = {
    "title": str, "name": str, "config": dict, "status": str, "why": str, "facts": dict,
    "cases": dict, "difference": dict, "tolerance": float | int, "rounds": dict,
}  # fmt: skip
ROW = {
    "contender": str, "title": str, "case": str, "measure": str, "rounds": int, "median": float,
    "low": float, "high": float, "least": float, "most": float, "busy": float,
}  # fmt: skip
RATIO = {"title": str, "of": str, "over": str, "measure": str, "status": str, "sure": bool}


def check(data, form):
    assert form.keys() <= data.keys(), form.keys() - data.keys()
    for key, kind in form.items():
        assert isinstance(data[key], kind), (key, data[key])


def test_the_file_has_the_form_that_readers_rely_on(result, tmp_path):
    read = json.loads(write_result(result, tmp_path).read_text())
    assert read == json.loads(json.dumps(as_data(result))) and list(tmp_path.iterdir()) == [
        tmp_path / "bench.json"
    ]
    check(read, FORM)
    assert read["format"] == FORMAT
    assert {"processor", "cores", "load", "system", "gpu", "memory"} <= read["machine"].keys()
    assert {"python", "torch"} <= read["versions"].keys()
    for suite in read["suites"]:
        check(suite, SUITE)
        for contender in suite["contenders"].values():
            check(contender, CONTENDER)
        for row in suite["rows"]:
            check(row, ROW)
        for ratio in suite["ratios"]:
            check(ratio, RATIO)
    # a form that lacks a key is noticed
    with pytest.raises(AssertionError):
        check({k: v for k, v in read.items() if k != "verdict"}, FORM)


def test_the_numbers_are_those_of_the_rounds(result):
    row = result.suites[0].rows[0]
    assert row.median == 0.02 and row.rounds == 6 and row.busy == 0.7
    assert row.positions_per_second == pytest.approx(50)
    values = [ratio.value for ratio in result.suites[0].ratios]
    assert values == [pytest.approx(2.0), pytest.approx(1.0), None]
    assert result.outcome == "incomplete"


PUBLISHED = sorted((bundled() / "bench" / "results").glob("*.json"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_results_are_records(path):
    """Every number of a committed result has its place in the records, and shows on a page."""
    data = json.loads(path.read_text())
    result = read_record(BenchResult, data)
    assert as_data(read_record(BenchResult, as_data(result))) == as_data(result)
    for old, new in zip(data["suites"], as_data(result)["suites"], strict=True):
        assert new["rows"] == old["rows"] and new["contenders"] == old["contenders"]
        assert new["ratios"] == old["ratios"] and new["limits"] == old["limits"]
    assert result.verdict in page(result).replace("&#39;", "'")


def test_there_are_published_results():
    assert PUBLISHED


class Reader(HTMLParser):
    """Collects tags, what they point at, and checks that they close."""

    VOID = {"meta", "br", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.pointers = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.pointers += [value for name, value in attrs if name in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(result, tmp_path):
    pytest.importorskip("matplotlib", reason="charts: pip install 'wishbone-tts[bench]'")
    text = write_page(result, tmp_path).read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert not re.search(r"https?://|@import|url\(", text)
    # ratios, two pictures of the lines (time and memory) and the bars
    assert len(reader.pointers) == reader.tags.count("img") == 4
    for pointer in reader.pointers:
        kind, _, data = pointer.partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert not re.search(r"""href\s*=\s*["'](?!#)|url\((?!#)""", b64decode(data).decode())
    assert "$" not in re.sub(r"<pre>.*</pre>", "", text, flags=re.DOTALL)


def test_the_page_escapes_what_it_is_given(result):
    text = page(result)
    assert "<ours>" not in text and "Theirs &amp; &lt;ours&gt;" in text
    assert "Toys &lt;and&gt; more" in text


def test_the_page_says_who_was_missing_and_what_was_asked(result):
    text = page(result)
    assert "pip install gone" in text
    assert "must be at least 1.5x" in text and "must be at most 1.05x" in text
    assert result.verdict in text


def test_the_last_line_printed_is_the_verdict(result, capsys):
    show(result)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == result.verdict
    assert lines[-1].startswith("verdict: incomplete. toys: a against b 2.00x")
    shown = "\n".join(lines)
    assert "Gone: missing, not installed: pip install gone" in shown
    assert "4.0 KiB" in shown and "20.0 ms" in shown
    assert "only 70 % of a processor" in shown


def test_without_matplotlib_the_page_has_its_tables_and_says_why(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = page(result)
    assert "There are no charts." in text and "pip install" in text and "<img" not in text
    assert "must be at least 1.5x" in text


def test_a_toy_is_a_contender():
    assert Toy(ToyConfig(), None).check({})["a"]
