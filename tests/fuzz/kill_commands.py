"""The commands that are killed: each with what it makes, read so that two runs can be compared.

Models, teachers and judges are toys: what is tried is what a command leaves on the disk and how it
goes on, not what it computes.
"""

import json
import os
from dataclasses import replace

import torch
from ab_results import costs
from test_ab_parts import plan
from test_data_align import FrontEnd as Tones
from test_data_speak import FrontEnd, Teacher
from tiny_system import tiny_system

import wishbone.core.data.text  # noqa: F401
import wishbone.core.train.run  # noqa: F401
from wishbone.core.cli.evaluation import evaluations
from wishbone.core.cli.main import main
from wishbone.core.data import speak as speaking
from wishbone.core.data.join import join
from wishbone.core.data.shards import Report
from wishbone.core.data.sources import parts
from wishbone.core.data.tokens import read_tokens
from wishbone.core.evaluate import ab, prompt_step
from wishbone.core.evaluate.experiment.arm_engines import EngineChoice
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.sources import speak_missing
from wishbone.core.report import charts
from wishbone.core.scale.share import which_part
from wishbone.core.scale.step import do_part
from wishbone.core.speak import speaker
from wishbone.core.speak.voice import Voice
from wishbone.core.weights.tensor_files import read_tensors
from wishbone.plugins.aligner import align as aligning
from wishbone.plugins.aligner import aligner


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


def made_file(source, out):
    """The file with the name of a shard for every time that one was finished."""
    return source / f"made-{out.name}"


def _note_shards(source, out):
    add = Report.add

    def noting(self, report):
        add(self, report)
        with made_file(source, out).open("a") as file:
            file.write(f"{report.name}\n")

    Report.add = noting


def _speak(source, out):
    _note_shards(source, out)
    speaking._parts = lambda *_: (FrontEnd(), Teacher())
    words = ["--out", str(out), "--shard", "2"]
    return main(["data", "speak", str(source / "long.txt"), *words])


def _recordings(out):
    rows = [
        (each.id, each.text, each.audio.tolist(), list(each.ends), list(each.phoneme_ends))
        for part in parts([out]) for each in part.recordings()
    ]  # fmt: skip
    reports = [json.loads(p.read_text()) for p in sorted((out / "report").glob("*.json"))]
    return rows, reports


def _tokenize(source, out):
    _note_shards(source, out)
    words = ["--out", str(out), "--system", str(source / "system.yaml")]
    return main(["data", "tokenize", str(source / "audio"), *words])


def _align(source, out):
    _note_shards(source, out)
    aligner.BATCH, aligner.CROP = 4, 120
    aligning._front_end = lambda name: Tones()
    words = ["--like", str(source / "like"), "--out", str(out), "--steps", "4", "--rounds", "1"]
    return main(["data", "align", str(source / "voice"), *words, "--least", "-99"])


def _synth(source, out):
    system = tiny_system()
    system.model.requires_grad_(False)
    speaker.load = lambda *_: system
    return main(["synth", str(source / "lines.txt"), "--out", str(out), "--together", "2"])


def _listed(out):
    rows = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    return rows, {path.name: path.read_bytes() for path in (out / "audio").iterdir()}


class Judge:
    """A panel of one that hears one word in ten wrong."""

    signatures = {"wer": "toy-1", "dnsmos": "toy-1"}
    used = list(signatures)
    group = 0

    def listen(self, clips):
        """Nothing is heard ahead."""

    def __init__(self, *_):
        self.first = self

    def map(self, judge, items):
        return map(lambda item: judge(self, item), items)

    def score(self, clip):
        facts = {"key": clip.key, "text": clip.text, "seconds": clip.seconds, "failure": ""}
        return facts | self.values(clip, "", ())

    def values(self, clip, failure, wanted):
        return {"heard": clip.text, "errors": len(clip.audio) % 3, "words": 10, "dnsmos": 3.0}


def _ab(source, out):
    # what measures time and memory would differ from run to run, and takes most of a real one
    charts._svg = lambda figure, title: "<svg></svg>"
    speak_missing.build = lambda config: tiny_system()
    ab.Panel = Judge
    speak_missing.accelerate_alike = lambda systems, engine: EngineChoice(
        "eager", "float32", dict.fromkeys(systems, "eager"), ""
    )
    speak_missing._costs = lambda *_: costs(["old", "new"])
    ab.run(plan(prompts=2), out, allow=True)
    return 0


TOLD = ("arm", "prompt", "repeat", "text", "seed", "codes", "heard", "errors", "words", "judged")


def _compared(out):
    items = [
        tuple(item.row.get(name) for name in TOLD)
        for arm in ("old", "new") for item in Items(out / "items.jsonl").of(arm)
    ]  # fmt: skip
    result = json.loads((out / "ab.json").read_text())
    judged = [row for row in result["comparisons"] if row["metric"] in ("wer", "dnsmos")]
    assert (out / "report.html").stat().st_size > 1000
    return items, judged, {p.name: p.read_bytes() for p in sorted(out.glob("audio/*/*"))}


def _some_prompts(source, out):
    """The part of an A/B's prompts that is this process's, as ``wishbone ab --part`` does it."""
    speak_missing.build = lambda config: tiny_system()
    prompt_step.Panel = Judge
    speak_missing.accelerate_alike = lambda systems, engine: EngineChoice(
        "eager", "float32", dict.fromkeys(systems, "eager"), ""
    )
    out.mkdir(exist_ok=True)
    do_part(prompt_step.PromptStep(PROMPTS, out), *which_part("", os.environ))
    return 0


def _gathered(out):
    items = Items(out / "items.jsonl")
    prompt_step.gather(items, PROMPTS, out)
    rows = [
        tuple(item.row.get(name) for name in TOLD)
        for arm in ("old", "new") for item in items.of(arm)
    ]  # fmt: skip
    return rows, {path.name: path.read_bytes() for path in sorted(out.glob("audio/*/*"))}


def _clips(source, out):
    evaluations.Panel = Judge
    words = [str(source / "spoken" / "audio"), "--text", str(source / "lines.txt")]
    return main(["evaluate", "audio", *words, "--out", str(out), "--threads", "1"])


def _rows(out):
    lines = [line for file in out.glob("rows-*.jsonl") for line in file.read_text().splitlines()]
    return sorted((row["key"], row["errors"], row["words"]) for row in map(json.loads, lines))


PROMPTS = plan(prompts=10)
PROMPTS = replace(PROMPTS, metrics={key: PROMPTS.metrics[key] for key in Judge.signatures})

COMMANDS = {
    "train": (_train, _trained),
    "data text": (_text, _tokens),
    "data join": (_join, _tokens),
    "say --lines": (_lines, _spoken),
    "voice": (_voice, _read_voice),
    "items of an ab": (_items, _read_items),
    "ab": (_ab, _compared),
    "data speak": (_speak, _recordings),
    "data tokenize": (_tokenize, _tokens),
    "data align": (_align, _recordings),
    "synth": (_synth, _listed),
    "ab --part": (_some_prompts, _gathered),
    "evaluate audio": (_clips, _rows),
}
