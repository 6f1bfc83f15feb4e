"""Commands in processes of their own, that die before their n-th operation on a file.

Each process is a fork of a server that has imported all of it and done nothing: a fork of the
tests' own process would wait for ever for locks that other threads of it held. Python tells an
audit hook of every file that is opened for writing, renamed, made or removed, before it happens;
there SIGKILL is sent, as the system does when memory runs out.
"""

import json
import multiprocessing
import os
import signal
import sys
import traceback

import torch
from tiny_system import tiny_system

import wishbone.core.data.text  # noqa: F401
import wishbone.core.train.run  # noqa: F401
from wishbone.core.cli.main import main
from wishbone.core.data.join import join
from wishbone.core.data.tokens import read_tokens
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.speak import speaker
from wishbone.core.speak.voice import Voice
from wishbone.core.weights.tensor_files import read_tensors

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link")
NOTHING = 10**9
"""More operations than any command has: it is not killed."""
LONGEST = 300
"""Seconds after which a command hangs; one takes a few."""


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


def run(name, source, out, kill_at=NOTHING):
    """Run a command -> its exit code, and the operations on files below ``out``.

    The code is -9 where it was killed, and None where it hung.
    """
    context = multiprocessing.get_context("forkserver")
    # the server does not look where the tests lie, so it has what they import
    context.set_forkserver_preload([name for name in sys.modules if name.startswith("wishbone.")])
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, source, out, kill_at, sending))
    process.start()
    sending.close()
    process.join(LONGEST)
    if process.is_alive():
        process.kill()
        return None, 0
    try:
        operations = receiving.recv() if receiving.poll() else 0
    except EOFError:
        operations = 0
    return process.exitcode, operations


def _child(name, source, out, kill_at, sending):
    code = 70
    try:
        torch.set_num_threads(1)
        _silence()
        count = _watch(str(out), kill_at)
        code = COMMANDS[name][0](source, out)
        sending.send(count())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _silence():
    sys.stdout = open(os.devnull, "w")


def _watch(folder, kill_at):
    """Count operations on files below ``folder``; die before number ``kill_at``."""
    count = 0

    def hook(event, arguments):
        nonlocal count
        if event == "open":
            path, mode, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not changes or not isinstance(path, str | bytes | os.PathLike):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if os.path.abspath(os.fsdecode(path)).startswith(folder):
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(hook)
    return lambda: count
