"""Adapters in whole systems: chosen by requests, and trained by runs that are killed."""

import json
import threading

import pytest
import torch

pytest.importorskip("peft", reason="pip install 'wishbone-tts[adapt]'")

from tiny_corpus import write_recipe
from tiny_system import tiny_system

from wishbone.core.model.wrapper import build_base
from wishbone.core.speak import text_to_speech
from wishbone.core.speak.server import Request, Server
from wishbone.core.speak.voice import Voice
from wishbone.core.system.build import build_model
from wishbone.core.system.loading import load_tensors
from wishbone.core.system.spec import read
from wishbone.core.weights.tensor_files import read_tensors

NAMES = ("default", "calm", "wild", "base")
LINES = ("We speak of one thing.", "Go on, then.", "A voice says what it has to say.", "So it is.")
TINY = {"name": "rwkv7", "width": 16, "layers": 1, "head_size": 16, "ffn_width": 32}


def adapted(weights, seed, **fields):
    """Loud adapters on these weights of the base."""
    from wishbone.plugins.peft.backbone import PEFT

    model = PEFT(PEFT.Config(base=TINY, rank=4, alpha=40.0, **fields)).eval()
    load_tensors(model, weights)
    return changed(model, seed, 0.05)


@torch.no_grad()
def changed(model, seed, by):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += (
            by * torch.randn(parameter.shape, generator=generator) * parameter.requires_grad
        )
    return model


def speaking(folder):
    """A whole small system whose backbone has three adapters."""
    from wishbone.plugins.peft.files import write_adapter

    system, folders = tiny_system(), {}
    weights = changed(build_base(TINY), 3, 0.3).state_dict()
    for seed, name in enumerate(("calm", "wild"), start=1):
        learned = adapted(weights, seed).learned()
        folders[name] = {"weights": str(write_adapter(learned, folder / name))}
    system.model.backbone = adapted(weights, 9, adapters=folders)
    return system.model.requires_grad_(False) and system


def said(system, line, seed, adapter):
    record = []
    text_to_speech.say(system, line, Voice().adapted(adapter), seed, record)
    return [utterance.codes for utterance in record]


def test_requests_choose_and_do_not_disturb_each_other(tmp_path):
    """In one batch of a server, and in threads that share a system."""
    system = speaking(tmp_path)
    alone = [said(system, line, n, NAMES[n]) for n, line in enumerate(LINES)]
    # the control: another adapter says something else
    assert all(said(system, LINES[0], 0, name) != alone[0] for name in NAMES[1:])

    asked = [Request(line, Voice().adapted(NAMES[n]), n) for n, line in enumerate(LINES)]
    served = {done.number: done for done in Server(system, slots=4).say(asked)}
    assert [[u.codes for u in served[n].utterances] for n in range(4)] == alone

    found = [None] * 4

    def speak(n):
        found[n] = said(system, LINES[n], n, NAMES[n])

    threads = [threading.Thread(target=speak, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def test_a_voice_may_say_which_adapter(tmp_path):
    system = speaking(tmp_path)
    voice = Voice(name="me", text=(1, 2, 27), speech=((3,), (9,)) * 4).adapted("calm")
    voice.with_state(system).save(tmp_path / "me.yaml")
    again = Voice.load(tmp_path / "me.yaml")
    assert again.adapter == "calm" and again.state["adapter"].tolist() == [1]
    records = [[], []]
    for record, each in zip(records, (voice, again), strict=True):
        text_to_speech.say(system, "Go on.", each, 0, record)
    assert records[0][0].codes == records[1][0].codes


class Killed(BaseException):
    pass


BASE = {"name": "rwkv7", "width": 32, "layers": 1, "head_size": 16, "ffn_width": 64}


def recipe(folder, method, **fields):
    """Adapters of a kind on a base that was trained for two steps."""
    from wishbone.core.cli.train import main

    folder.mkdir(exist_ok=True)
    path = write_recipe(folder)
    text = path.read_text()
    begin, end = text.index("  backbone:"), text.index("  head:")
    plain = folder / "plain.yaml"
    plain.write_text(f"{text[:begin]}  backbone: {json.dumps(BASE)}\n{text[end:]}")
    if not (folder / "plain").exists():
        main([str(plain), f"out={folder}/plain", "steps=2"])
    wrapped = {"name": "peft", "base": BASE, "method": method, "rank": 4, "dropout": 0.2, **fields}
    path.write_text(
        f"{text[:begin]}  backbone: {json.dumps(wrapped)}\n{text[end:]}"
        f"weights: {folder}/plain/export\nfreeze: [head, tables]\n"
    )
    return str(path)


def losses(run):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(entry["step"], entry.get("loss", entry.get("held_out"))) for entry in entries]


@pytest.mark.parametrize(
    "fields", [{}, {"method": "dora"}, {"method": "miss"}, {"method": "pissa"},
               {"base_weights": "nf4"}], ids=lambda fields: "-".join(fields.values()) or "lora"
)  # fmt: skip
def test_a_killed_run_goes_on_with_the_same_losses(fields, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
    from wishbone.core.cli.train import main
    from wishbone.core.train import loop

    path = recipe(tmp_path, **({"method": "lora"} | fields))
    assert main([path, f"out={tmp_path}/whole"]) == 0
    whole = loop.Trainer._train_step

    def fatal(self):
        if self.step == 5:
            raise Killed
        whole(self)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "_train_step", fatal)
        with pytest.raises(Killed):
            main([path, f"out={tmp_path}/cut"])
    assert main([path, f"out={tmp_path}/cut"]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ours, theirs = (
        read_tensors(tmp_path / run / "export" / "model.safetensors") for run in ("cut", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # it learned something, the base and all else stayed, and the export speaks for itself
    before = read_tensors(tmp_path / "plain" / "export" / "model.safetensors")
    moving = {name for name in theirs if "lora" in name or "miss" in name}
    assert any(theirs[name].any() for name in moving if not name.endswith("lora_A.default.weight"))
    rest = {name: name.replace("backbone.base.", "backbone.").replace("base_layer.", "")
            for name in theirs.keys() - moving}  # fmt: skip
    if not fields.get("base_weights"):
        assert all(torch.equal(theirs[name], before[plain]) for name, plain in rest.items())
    model = build_model(read(str(tmp_path / "whole" / "export")))
    assert all(torch.equal(t, theirs[name]) for name, t in model.state_dict().items())
    notes = json.loads((tmp_path / "whole" / "export" / "provenance.json").read_text())["notes"]
    trained = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    assert notes["trained_parameters"] == trained
