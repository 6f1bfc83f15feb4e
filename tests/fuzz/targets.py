"""What reads files, each beside a valid one: ``case(folder, random)`` damages it and reads it.

A target returns True where the file was read; then it has checked that the values are right, or
possible ones. Everything else that it raises, but a ``WishboneError``, is a fault.
"""

import json
import math
from functools import cache

import pyarrow
import pyarrow.parquet
import soundfile
import torch
from mutators import FLOATS, NUMBERS, VALUES, changed_text, changed_value, damaged
from safetensors.torch import save, save_file
from tiny_corpus import ABOUT, rows
from tiny_system import tiny_system
from torch import nn

from wishbone.core.audio import files
from wishbone.core.config.compose import bundled, compose
from wishbone.core.contract.errors import DataError
from wishbone.core.data.inspect import inspect
from wishbone.core.data.shards import Report, ShardReport, gathered
from wishbone.core.data.sources import parts
from wishbone.core.data.speak import write_audio
from wishbone.core.data.tokens import METADATA, read_tokens, write_tokens
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.prompts.prompt_lists import read_prompts
from wishbone.core.evaluate.report.markdown import read_result
from wishbone.core.speak import text_to_speech
from wishbone.core.speak.voice import Voice
from wishbone.core.system.loading import load_part
from wishbone.core.system.spec import parse
from wishbone.core.train.recipe import read_recipe
from wishbone.core.weights.fingerprint import fingerprint


@cache
def token_file():
    """Bytes of valid token data, and its rows."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        write_tokens(path, rows(8), ABOUT)
        return path.read_bytes(), pyarrow.parquet.read_table(path)


def _check_tokens(corpus):
    codes, ends = corpus.codes, corpus.word_ends
    for lists in (corpus.text, codes, ends):
        assert lists.values.min(initial=0) >= 0 and len(lists) == len(corpus)
    assert all(math.isfinite(s) and s >= 0 for s in corpus.seconds)
    assert (codes.lengths() % corpus.codebooks == 0).all()
    for row in range(len(corpus)):
        corpus.sample(row)
        last = max(ends[row], default=0)
        assert list(ends[row]) == sorted(ends[row])
        assert last <= len(codes[row]) // corpus.codebooks


def token_bytes(folder, random):
    (folder / "a.parquet").write_bytes(damaged(token_file()[0], random))
    corpus = read_tokens(folder)
    _check_tokens(corpus)
    inspect(folder)
    whole = token_file()[1]
    if corpus.ids == whole.column("id").to_pylist() and corpus.about == ABOUT:
        # pages have checksums: what is read of the right rows is right
        assert [list(corpus.codes[i]) for i in range(8)] == whole.column("codes").to_pylist()
    return True


def token_values(folder, random):
    table = token_file()[1]
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    metadata = dict(table.schema.metadata)
    name, at = random.choice(table.column_names), random.randrange(len(table))
    kind = random.randrange(6)
    if kind == 0:
        metadata[METADATA] = json.dumps(changed_value(ABOUT, random)).encode()[
            : random.choice((1, 99))
        ]
    elif kind == 1:
        del columns[name]
    elif kind == 2:
        columns[name] = [random.choice(VALUES)] * len(table)
    elif isinstance(columns[name][at], list) and columns[name][at]:
        inside = random.randrange(len(columns[name][at]))
        columns[name][at][inside] = random.choice((*NUMBERS, None, *FLOATS))
    else:
        columns[name][at] = random.choice(VALUES)
    try:
        made = pyarrow.table(columns).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(made, folder / "a.parquet")
    except (pyarrow.ArrowException, OverflowError):
        return False  # no such file can be
    _check_tokens(read_tokens(folder))
    return True


@cache
def _audio_row():
    tone = 0.3 * torch.sin(torch.arange(24_000) / 9)
    import io

    buffer = io.BytesIO()
    soundfile.write(buffer, tone.numpy(), 24_000, format="FLAC")
    return {
        "id": "a", "text": "one two", "words": ["one", "two"], "phonemes": ["w n", "t u"],
        "separators": [" ", "."], "ends": [0.4, 0.9], "phoneme_ends": [0.2, 0.4, 0.6, 0.9],
        "seconds": 1.0, "speaker": "x", "audio": buffer.getvalue(),
    }  # fmt: skip


def _recordings(folder):
    usable = 0
    for part in parts([folder]):
        for recording in part.recordings():
            if isinstance(recording, DataError):
                assert recording.what
                continue
            usable += 1
            assert torch.isfinite(recording.audio).all() and recording.sample_rate >= 1000
            assert list(recording.ends) == sorted(recording.ends)
            assert isinstance(recording.text, str) and isinstance(recording.id, str)
    return usable > 0


def audio_data(folder, random):
    path = folder / "a.parquet"
    if random.random() < 0.5:
        write_audio(path, [_audio_row()])
        path.write_bytes(damaged(path.read_bytes(), random))
    else:
        row = changed_value(_audio_row(), random)
        try:
            table = pyarrow.Table.from_pylist([row if isinstance(row, dict) else _audio_row()])
            pyarrow.parquet.write_table(table, path)
        except (pyarrow.ArrowException, OverflowError):
            return False
    return _recordings(folder)


def metadata_table(folder, random):
    (folder / "a.wav").write_bytes(_wav())
    table = "file\ttext\tid\tspeaker\na.wav\tHello there.\tx\ty\nb.wav\tGone.\tz\t\n"
    (folder / "metadata.tsv").write_bytes(changed_text(table, random))
    return _recordings(folder)


@cache
def _wav(kind="WAV"):
    import io

    tone = 0.3 * torch.sin(torch.arange(8_000) / 9)
    buffer = io.BytesIO()
    soundfile.write(buffer, tone.numpy(), 16_000, format=kind)
    return buffer.getvalue()


def audio_file(folder, random):
    kind = random.choice(("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU"))
    path = folder / f"a.{kind.lower()}"
    path.write_bytes(damaged(_wav(kind), random))
    audio = files.read(path)
    assert torch.isfinite(audio.samples).all() and 1000 <= audio.sample_rate <= 768_000
    assert 0 < len(audio.samples) < 100_000
    return True


@cache
def _speaking():
    system = tiny_system()
    voice = Voice(
        "me", transcript="abc", text=(1, 2, 28), speech=((3,), (4,), (5,)), word_ends=(3,),
        codec=fingerprint(system.speech_tokenizer), tokenizer="letters",
        heard={"speaker": torch.ones(4)},
    )  # fmt: skip
    return system, voice


def voice(folder, random):
    system, valid = _speaking()
    path = valid.save(folder / "v.yaml")
    tensors = path.with_suffix(".safetensors")
    kind = random.randrange(3)
    if kind == 0:
        tensors.write_bytes(damaged(tensors.read_bytes(), random))
    elif kind == 1:
        path.write_bytes(changed_text(path.read_text(), random))
    else:
        save_file(_odd_tensors(files_tensors(tensors), random), tensors)
    audio = text_to_speech.say(system, "Hello there.", Voice.load(path))
    assert torch.isfinite(audio.samples).all() and len(audio.samples)
    return True


def files_tensors(path):
    from safetensors.torch import load_file

    return load_file(path)


def _odd_tensors(tensors, random):
    """Named tensors with one of them changed: shape, type, values, name."""
    name = random.choice(sorted(tensors))
    tensor = tensors[name]
    kind = random.randrange(7)
    if kind == 0:
        tensor = tensor.flatten()[:1].squeeze()
    elif kind == 1:
        tensor = tensor[..., None].expand(*tensor.shape, random.randrange(3))
    elif kind == 2:
        tensor = tensor.to(random.choice((torch.float32, torch.bool, torch.int64, torch.bfloat16)))
    elif kind == 3 and tensor.is_floating_point():
        tensor = tensor.clone()
        tensor.view(-1)[:1] = random.choice(FLOATS)
    elif kind == 4 and not tensor.is_floating_point():
        tensor = torch.full_like(tensor, random.choice((-1, -100, 49, 50, 51, 52, 2**31 - 1)))
    elif kind == 5:
        return {k: v for k, v in tensors.items() if k != name}
    else:
        return {**tensors, random.choice(("x", f"{name}.x", "module." + name)): tensor.clone()}
    return {**tensors, name: tensor.contiguous().clone()}


def checkpoint(folder, random):
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    path = folder / "model.safetensors"
    if random.random() < 0.5:
        # a name or a number may change in a way that nothing can see, a number only within reason
        path.write_bytes(damaged(save(tensors), random))
    else:
        save_file(_odd_tensors(tensors, random), path)
    load_part(module, folder)
    assert all(torch.isfinite(t).all() and t.abs().max() < 1e9 for t in module.parameters())
    return True


def system_config(folder, random):
    name = random.choice(("quickstart", "quickstart-rwkv7", "text-rwkv7"))
    text = (bundled() / "system" / f"{name}.yaml").read_text()
    (folder / "s.yaml").write_bytes(changed_text(text, random))
    spec = parse(compose(folder / "s.yaml"))
    assert spec.slots
    return True


def recipe(folder, random):
    text = (bundled() / "train" / "quickstart-rwkv7.yaml").read_text()
    (folder / "r.yaml").write_bytes(changed_text(text, random))
    read, _ = read_recipe(str(folder / "r.yaml"))
    assert read.steps >= 0 and math.isfinite(read.learning_rate)
    return True


def prompts(folder, random):
    ending, text = random.choice(
        (
            ("txt", "Hello there.\nHow are you?\n"),
            ("tsv", "short\tHello there.\nshort,odd\tHow are you?\n"),
            ("lst", "a|He said|a.wav|Hello there.\nb|How are you?\n"),
        )
    )
    path = folder / f"p.{ending}"
    path.write_bytes(changed_text(text, random))
    assert all(isinstance(prompt.text, str) for prompt in read_prompts(path))
    return True


def items(folder, random):
    path = folder / "items.jsonl"
    lines = [
        {"arm": "a", "prompt": f"{n:03d}", "repeat": 0, "text": "Hi.", "audio": "audio/a/x.flac",
         "seed": n, "failure": "", "seconds": 1.5, "heard": "hi", "judged": {"wer": "x"}}
        for n in range(4)
    ]  # fmt: skip
    at = random.randrange(4)
    if random.random() < 0.5:
        lines[at] = changed_value(lines[at], random)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_bytes(text.encode() if random.random() < 0.5 else damaged(text.encode(), random))
    before = Items(path)
    before.add("b", "000", 0, {"text": "New."})
    assert Items(path).get("b", "000", 0).text == "New."
    return True


def result(folder, random):
    source = next((bundled() / "ab").rglob("*.json"))
    path = folder / "ab.json"
    if random.random() < 0.1:
        path.write_bytes(damaged(source.read_bytes(), random))
    else:
        path.write_text(json.dumps(changed_value(_json(source), random)))
    read_result(path)
    return True


@cache
def _json(path):
    return json.loads(path.read_text())


def shard_report(folder, random):
    report = Report(folder, {"made": "so"})
    report.add(ShardReport("000", 3, 1.5, [{"id": "a", "text": "b", "reason": "c: d"}]))
    path = random.choice(sorted((folder / "report").iterdir()))
    if random.random() < 0.5:
        path.write_bytes(damaged(path.read_bytes(), random))
    else:
        path.write_text(json.dumps(changed_value(json.loads(path.read_text()), random)))
    gathered(folder).total()
    return True


TARGETS = {
    target.__name__: target
    for target in (
        token_bytes, token_values, audio_data, metadata_table, audio_file, voice, checkpoint,
        system_config, recipe, prompts, items, result, shard_report,
    )
}  # fmt: skip
