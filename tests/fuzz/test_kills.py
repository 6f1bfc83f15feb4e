"""Commands killed at any operation on a file: the same command makes the same, and leaves nothing.

``WISHBONE_KILLS=100 python -m pytest tests/fuzz/test_kills.py -s`` kills each command so many times
and prints how many resumed; by default it is a few, at operations chosen by chance but always the
same.
"""

import json
import os
import sys

import pytest
from mutators import seeded

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
if not hasattr(os, "fork"):
    pytest.skip("needs processes that fork", allow_module_level=True)

import torch  # noqa: E402
from kills import run  # noqa: E402
from tiny_corpus import write_recipe  # noqa: E402
from tiny_system import tiny_system  # noqa: E402

import wishbone.core.data.text  # noqa: E402, F401
import wishbone.core.train.run  # noqa: E402, F401
from wishbone.core.cli.main import main  # noqa: E402
from wishbone.core.data.join import join  # noqa: E402
from wishbone.core.data.tokens import read_tokens  # noqa: E402
from wishbone.core.evaluate.experiment.items import Items  # noqa: E402
from wishbone.core.speak import speaker  # noqa: E402
from wishbone.core.speak.voice import Voice  # noqa: E402
from wishbone.core.weights.tensor_files import read_tensors  # noqa: E402

KILLS = int(os.environ.get("WISHBONE_KILLS", 2))
LINES = "We go there.\nStop.\nOne more line of words.\nAnd back again!\n"


def _train(source, out):
    words = ["steps=3", "evaluate_every=0", "checkpoint_every=1", "held_out=0"]
    return main(["train", str(source / "recipe.yaml"), f"out={out}", *words])


def _trained(out):
    tensors = read_tensors(out / "export" / "model.safetensors")
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [(row["step"], row.get("loss"), row.get("held_out")) for row in rows]
    steps = sorted(path.name for path in (out / "checkpoints").iterdir())
    return {name: tensor.tolist() for name, tensor in tensors.items()}, losses, steps


def _text(source, out):
    words = ["--out", str(out), "--system", "text-rwkv7"]
    return main(["data", "text", str(source / "lines.txt"), *words])


def _join(source, out):
    join(source / "tokens", out, pairs=5, utterances=3)
    return 0


def _tokens(out):
    corpus = read_tokens(out)
    reports = [json.loads(p.read_text()) for p in sorted((out / "report").glob("*.json"))]
    return corpus.ids, corpus.text.values.tolist(), corpus.codes.values.tolist(), reports


def _lines(source, out):
    out.mkdir(exist_ok=True)
    speaker.load = lambda *_: tiny_system()
    return main(["say", "--lines", str(source / "lines.txt"), "-o", str(out / "l.flac")])


def _spoken(out):
    return {path.name: path.read_bytes() for path in out.glob("*.flac")}


def _voice(source, out):
    voice = Voice("me", text=(1, 2), speech=((3,), (4,)), start={"h": torch.ones(1, 16)})
    voice.save(out / "v.yaml", overwrite=True)
    return 0


def _read_voice(out):
    voice = Voice.load(out / "v.yaml")
    return voice.text, voice.speech, voice.start["h"].tolist()


def _items(source, out):
    out.mkdir(exist_ok=True)
    items = Items(out / "items.jsonl")
    for number in range(6):
        if not items.get("a", str(number), 0).text:
            items.add("a", str(number), 0, {"text": f"line {number}"})
    return 0


def _read_items(out):
    return [(item.prompt, item.text) for item in Items(out / "items.jsonl").of("a")]


COMMANDS = {
    "train": (_train, _trained),
    "data text": (_text, _tokens),
    "data join": (_join, _tokens),
    "say --lines": (_lines, _spoken),
    "voice": (_voice, _read_voice),
    "items of an ab": (_items, _read_items),
}


def _left(out):
    """Files that only an unfinished command has."""
    return [path for path in out.rglob(".*") if path.name != ".gitignore"]


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_goes_on(name, tmp_path):
    command, read = COMMANDS[name]
    write_recipe(tmp_path, count=24)
    (tmp_path / "lines.txt").write_text(LINES)
    whole = tmp_path / "whole"
    code, operations = run(lambda: command(tmp_path, whole), whole)
    assert code == 0 and operations > 3
    expected, faults = read(whole), []
    points = seeded(name, 0).choices(range(operations), k=KILLS) if KILLS < operations else None
    for number, at in enumerate(points or range(operations)):
        out = tmp_path / f"cut{number}"
        killed, _ = run(lambda out=out: command(tmp_path, out), out, at)
        code, _ = run(lambda out=out: command(tmp_path, out), out)
        if killed != -9 or code or read(out) != expected or _left(out):
            faults.append((at, killed, code, [path.name for path in _left(out)]))
    print(f"{name}: {operations} operations, {len(points or range(operations))} kills,"
          f" {len(faults)} faults", file=sys.stderr)  # fmt: skip
    assert not faults, f"killed before operation, exit codes, what is left: {faults[:12]}"
