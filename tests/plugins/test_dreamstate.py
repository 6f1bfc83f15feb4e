"""The generator of states, edits of states as voices, and offsets of parameters."""

import math
from dataclasses import replace

import pytest
import torch

from wishbone.core.contract.errors import CheckpointError, DataError, UsageError
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.plugins.dreamstate.generator import GeneratorConfig, StateGenerator, fit
from wishbone.plugins.dreamstate.offsets import OFFSETS, OffsetTimeMix
from wishbone.plugins.rwkv7.layers import TimeMix

PARTS = {"blocks.0.wkv": [2, 8, 8], "blocks.1.wkv": [2, 8, 8], "blocks.0.delta.w0": [16]}
WIDTH = 48


def states(count=40, spread=0.2, seed=0):
    """States around two centres, with the number of each one's centre."""
    random = torch.Generator().manual_seed(seed)
    number = torch.arange(count) % 2
    parts = {}
    for name, shape in PARTS.items():
        centres = 2 * torch.randn(2, *shape, generator=random)
        parts[name] = centres[number] + spread * torch.randn(count, *shape, generator=random)
    return parts, number


def generator(**fields):
    torch.manual_seed(0)
    return StateGenerator(GeneratorConfig(width=48, layers=2, parts=PARTS, **fields))


@pytest.fixture(scope="module")
def learned():
    """A generator of both kinds of states, by label."""
    parts, number = states()
    one = generator(labels=["calm", "tense"])
    one.measure(parts)
    rows, asked = one.flat(parts), torch.eye(2)[number]
    losses = fit(one, rows, asked, steps=400, rate=2e-3, batch=32, drop=0.1, seed=0)
    return one.eval(), parts, number, losses


def distance(sample, parts, number, which):
    """Root mean square to the mean of the states of a centre, part by part."""
    pairs = [(sample[name], part[number == which].mean(0)) for name, part in parts.items()]
    return max((drawn - mean).square().mean().sqrt().item() for drawn, mean in pairs)


@torch.no_grad()
def test_at_first_it_names_the_mean_of_all_states():
    one, (parts, _) = generator(), states()
    one.measure(parts)
    rows = one.flat(parts)
    assert rows.mean(0).abs().max() < 1e-5 and rows.shape == (40, sum(one.sizes))
    assert one(rows[:3], torch.tensor([0.0, 0.5, 0.98])).abs().max() == 0
    drawn = one.states(one.flow(torch.randn(2, rows.shape[1])))
    for name, part in parts.items():
        assert (drawn[name] - part.mean(0)).abs().max() < 1e-5


@torch.no_grad()
def test_rows_and_states_are_the_same_numbers():
    one, (parts, _) = generator(), states()
    one.measure(parts)
    again = one.states(one.flat(parts))
    assert all((again[name] - part).abs().max() < 1e-4 for name, part in parts.items())
    spreads = [part.square().mean().sqrt() for part in one.flat(parts).split(one.sizes, 1)]
    assert all(abs(float(spread) - 1) < 1e-4 for spread in spreads)
    fewer = generator(rank=2)
    fewer.measure(parts)
    rows = fewer.flat(parts)
    assert rows.shape == (40, 2 * 5)
    again = fewer.states(rows)
    assert all((again[name] - part).abs().max() > 0.1 for name, part in parts.items())
    assert (fewer.flat(again) - rows).abs().max() < 1e-4


@torch.no_grad()
def test_what_is_asked_for_is_drawn(learned):
    one, parts, number, losses = learned
    assert sum(losses[-40:]) / 40 < 0.1 * losses[0]
    noise = torch.randn(6, sum(one.sizes), generator=torch.Generator().manual_seed(5))
    for which in (0, 1):
        asked = torch.eye(2)[[which] * 6]
        drawn = one.states(one.flow(noise, asked))
        assert distance(drawn, parts, number, which) < 0.4
        assert distance(drawn, parts, number, 1 - which) > 1.5  # control: the other label
        guided = one.states(one.flow(noise, asked, scale=1.5))
        assert distance(guided, parts, number, which) < 0.6


@torch.no_grad()
def test_unasked_it_draws_some_of_each(learned):
    one, parts, number, _ = learned
    noise = torch.randn(24, sum(one.sizes), generator=torch.Generator().manual_seed(6))
    drawn = one.states(one.flow(noise))
    nearest = []
    for row in range(24):
        single = {name: part[row] for name, part in drawn.items()}
        nearest.append(min((0, 1), key=lambda w, s=single: distance(s, parts, number, w)))
    assert {0, 1} == set(nearest)


@torch.no_grad()
def test_the_way_back_to_noise_leads_there_again(learned):
    one, parts, number, _ = learned
    rows = one.flat(parts)[:4]
    noise = one.flow(rows, back=True, steps=64)
    assert (noise - rows).square().mean().sqrt() > 1  # it has gone somewhere
    again = one.flow(noise, steps=64)
    assert (again - rows).square().mean().sqrt() < 0.3
    assert (one.flow(noise.roll(1, 0), steps=64) - rows).square().mean().sqrt() > 0.7  # control


@torch.no_grad()
def test_the_way_is_that_of_the_equation():
    """With d = t^2, x / (1 - t) grows by t^2 / (1 - t)^2, whose sum is known."""
    one = generator()
    one.forward = lambda x, t, asked=None: (t**2)[:, None].expand_as(x)
    start, end = torch.randn(3, sum(one.sizes)), 0.98
    x = (1 - end) * (start + end + 2 * math.log(1 - end) + 1 / (1 - end) - 1)
    assert (one.flow(start, steps=8) - end**2).abs().max() < 1e-5  # the last step names the state
    errors = [(one.flow(x, back=True, steps=n) - start).abs().max() for n in (256, 512)]
    print(errors)
    assert errors[1] < 0.05 and errors[1] < 0.3 * errors[0]  # Heun's falls with the square


def test_one_state_is_learned_by_heart():
    parts, _ = states(1)
    one = generator()
    one.measure(parts)
    fit(one, one.flat(parts), None, steps=3, rate=1e-3, batch=8, drop=0.0, seed=0)
    drawn = one.states(one.flow(torch.randn(3, sum(one.sizes))))
    assert all((drawn[name] - part).abs().max() < 1e-3 for name, part in parts.items())


def mixers():
    """The plain half and that with offsets, of the same weights far from their first values."""
    torch.manual_seed(0)
    place = Place(WIDTH, 1, 3)
    plain = TimeMix(TimeMix.Config(head_size=16), place).double()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    moved = OffsetTimeMix(OffsetTimeMix.Config(head_size=16), place).double()
    moved.load_state_dict(plain.state_dict())
    return plain, moved


@torch.no_grad()
def test_offsets_move_the_parameters_of_their_row():
    plain, moved = mixers()
    x = torch.randn(2, 19, WIDTH, dtype=torch.float64)
    state = moved.init_state(2, x.device, x.dtype)
    first = plain.init_state(2, x.device, x.dtype)
    assert torch.equal(moved(x, state, Call())[0], plain(x, first, Call())[0])
    for name in OFFSETS:
        state[name] = torch.randn_like(state[name])
    y, after = moved(x, state, Call())
    assert all(torch.equal(after[name], state[name]) for name in OFFSETS)
    before = plain.w0.clone(), plain.a0.clone()
    for row in range(2):
        for parameter, value, name in zip((plain.w0, plain.a0), before, OFFSETS, strict=True):
            parameter.copy_(value + state[name][row])
        expected, _ = plain(x, first, Call())
        assert (y[row] - expected[row]).abs().max() < 1e-11
        assert (y[1 - row] - expected[1 - row]).abs().max() > 1e-3  # control: the other's


def run(*words):
    from wishbone.plugins.dreamstate.command import main

    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """A small system of its own weights, and four voices of it in two folders."""
    pytest.importorskip("gruut", reason="pip install gruut for the phoneme tokenizer")
    from wishbone.core.speak.speaker import build
    from wishbone.core.speak.voice import Voice
    from wishbone.core.system.spec import read

    folder = tmp_path_factory.mktemp("dream")
    system = build(read("quickstart-rwkv7"))
    names = [n for n in system.model.backbone.init_state(1) if n.endswith("wkv")]
    random = torch.Generator().manual_seed(0)
    for label in ("calm", "tense"):
        (folder / label).mkdir()
        for number in range(2):
            start = {n: 0.1 * torch.randn(1, 3, 64, 64, generator=random) for n in names}
            voice = Voice.from_start(system, start, f"{label}{number}", "CC0 1.0")
            voice.save(folder / label / f"{number}.yaml")
    return folder, system, names


def test_commands_learn_draw_and_move_voices(voices, tmp_path, capsys):
    from wishbone.core.speak import text_to_speech
    from wishbone.core.speak.voice import Voice
    from wishbone.plugins.dreamstate.files import load

    folder, system, names = voices
    out = tmp_path / "generator"
    small = ("--steps", 20, "--width", 32, "--layers", 1, "--by", "label")
    assert run("train", folder, "--out", out, *small) == 0
    assert "4 states of 73728 numbers, 54 along" in capsys.readouterr().out
    for seed in (1, 1, 2):
        name = tmp_path / f"drawn{seed}-{len(list(tmp_path.glob('drawn*')))}.yaml"
        drawn = ("sample", out, "--label", "calm", "--like", "kathleen", "--flow", 4)
        assert run(*drawn, "--seed", seed, "--out", name) == 0
    one, same, other = (Voice.load(p) for p in sorted(tmp_path.glob("drawn*.yaml")))
    assert all(torch.equal(one.start[n], same.start[n]) for n in names)
    assert not torch.equal(one.start[names[0]], other.start[names[0]])
    assert (
        one.heard is not None and text_to_speech.say(system, "Hello.", one, seed=3).samples.numel()
    )

    a, b = folder / "calm/0.yaml", folder / "tense/1.yaml"
    assert run("edit", a, "--towards", b, "--amount", 0.25, "--out", tmp_path / "ab.yaml") == 0
    more = ("--from", a, "--amount", 2, "--out", tmp_path / "more.yaml")
    assert run("edit", b, "--towards", b, *more) == 0
    first, last = Voice.load(a).start, Voice.load(b).start
    moved, beyond = Voice.load(tmp_path / "ab.yaml"), Voice.load(tmp_path / "more.yaml")
    for name in names:
        expected = 0.75 * first[name] + 0.25 * last[name]
        assert (moved.start[name] - expected).abs().max() < 1e-6
        expected = last[name] + 2 * (last[name] - first[name])
        assert (beyond.start[name] - expected).abs().max() < 1e-5
    few = tmp_path / "few"
    assert run("train", folder, "--out", few, "--steps", 20, "--width", 32, "--rank", 1) == 0
    stay = ("--amount", 0, "--generator", few, "--out", tmp_path / "stay.yaml")
    assert run("edit", a, "--towards", b, *stay) == 0
    one, moved = load(few, system), Voice.load(tmp_path / "stay.yaml").start
    with torch.no_grad():  # what it has no direction for stays
        rest = [one.states(one.flat(state)) for state in (moved, first)]
    for name in names:
        kept = moved[name] - rest[0][name] - (first[name] - rest[1][name])
        assert kept.abs().max() < 1e-5 < (first[name] - rest[1][name]).abs().max()
    through = ("--generator", out, "--flow", 4, "--out", tmp_path / "through.yaml")
    assert run("edit", a, "--towards", b, *through) == 0
    assert Voice.load(tmp_path / "through.yaml").start.keys() == set(names)


def test_recordings_give_the_state_after_them(voices):
    from wishbone.core.speak.voice import find, prepare
    from wishbone.plugins.dreamstate.files import parts_of

    _, system, names = voices
    voice = find("kathleen")
    parts = parts_of(voice, system, names)
    _, _, state = prepare(voice, system)
    assert all(torch.equal(parts[n], state[n]) and parts[n].abs().max() > 0 for n in names)
    again = parts_of(voice.with_state(system), system, names)
    assert all((again[n] - parts[n]).abs().max() < 1e-4 for n in names)


def test_files_of_rwkv_peft_are_states_too(voices, tmp_path, capsys):
    from wishbone.core.speak.voice import Voice
    from wishbone.plugins.dreamstate.files import names_of, state_of
    from wishbone.plugins.state_tuning.files import write_time_state

    folder, system, names = voices
    start = Voice.load(folder / "calm/0.yaml").start
    write_time_state(tmp_path / "one.pth", start)
    state = state_of(tmp_path / "one.pth", system, names_of(system, False))
    assert all(torch.equal(state[name], start[name]) for name in names)
    Voice.load(folder / "calm/1.yaml").save(tmp_path / "two.yaml")
    small = ("--steps", 2, "--width", 32, "--layers", 1)
    assert run("train", tmp_path, "--out", tmp_path / "generator", *small) == 0
    assert "2 states of" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="other layers or sizes"):
        state_of(tmp_path / "one.pth", system, names_of(system, True))


def test_what_does_not_fit_is_refused(voices, tmp_path):
    from wishbone.core.speak.voice import Voice
    from wishbone.plugins.dreamstate.files import load

    folder, system, _ = voices
    out = tmp_path / "generator"
    small = ("--steps", 2, "--width", 32, "--layers", 1)
    assert run("train", folder, "--out", out, *small) == 0
    with pytest.raises(UsageError, match="no label 'calm'"):
        run("sample", out, "--label", "calm", "--out", tmp_path / "a.yaml")
    with pytest.raises(UsageError, match="is there already"):
        run("train", folder, "--out", out, *small)
    with pytest.raises(DataError, match="no vector of its speaker"):
        run("train", folder, "--out", tmp_path / "b", *small, "--by", "speaker")
    with pytest.raises(DataError, match="no voice in this folder"):
        run("train", out, "--out", tmp_path / "c")
    with pytest.raises(DataError, match="lie in no folder"):
        run("train", folder / "calm", "--out", tmp_path / "d", "--by", "label")
    text = (out / "shape.yaml").read_text()
    (out / "shape.yaml").write_text(text.replace("model: ", "model: x"))
    with pytest.raises(CheckpointError, match="those of another model"):
        load(out, system)
    other = replace(Voice.load(folder / "calm/0.yaml"), model="another")
    (tmp_path / "e").mkdir()
    other.save(tmp_path / "e/voice.yaml")
    with pytest.raises(CheckpointError, match="another model"):
        run("train", tmp_path / "e", "--out", tmp_path / "f", *small)
