"""Sequences cut into segments: the same loss, the right gradient, and a resume in their middle."""

import json

import pytest
import torch
from test_train_run import Killed, kill_before, losses
from tiny_corpus import write_recipe
from tiny_system import Recurrent
from two_processes import together

from wishbone.core.contract.backbone import Caps
from wishbone.core.contract.errors import CapabilityError, CheckpointError, ConfigError
from wishbone.core.contract.layout import Positions

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.cli.train import main  # noqa: E402
from wishbone.core.data.tokens import read_tokens  # noqa: E402
from wishbone.core.system.build import build_layout, build_model  # noqa: E402
from wishbone.core.train import truncated_bptt  # noqa: E402
from wishbone.core.train.batches import collate, lay_out  # noqa: E402
from wishbone.core.train.objectives import Codes  # noqa: E402
from wishbone.core.train.recipe import read_recipe  # noqa: E402
from wishbone.core.train.truncated_bptt import (  # noqa: E402
    ContinuedCodes,
    Segment,
    SegmentBatch,
    SegmentStreams,
    detached,
    require_carried_state,
    state_before,
)
from wishbone.core.weights.tensor_files import read_tensors  # noqa: E402

RWKV7 = "system.backbone={name: rwkv7, width: 32, layers: 2, head_size: 16}"
BACKBONES = {"rwkv7": [RWKV7], "transformer": []}
CUT = ["segment_positions=16", "batch_positions=48", "accumulate=2", "steps=7"]


def parts(folder, backbone="rwkv7"):
    """A model in evaluation mode that has learned nothing but forgets nothing, and sequences."""
    recipe = write_recipe(folder)
    _, system = read_recipe(recipe, BACKBONES[backbone])
    torch.manual_seed(3)
    model = build_model(system).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("output.weight"):
            # RWKV-LM begins with zeros here, and nothing the state holds would be heard
            torch.nn.init.normal_(parameter, std=0.3)
    _, layout, _ = build_layout(system)
    corpus = read_tokens(folder / "tokens")
    by_length = {len((laid := lay_out(corpus, layout, row, 0, 0)).table): laid for row in range(9)}
    return model, list(by_length.values())[:3], corpus, layout


def cut(sequences, begin, size):
    """The segment of every sequence that begins at ``begin``; nothing of one that is over."""
    pieces = [
        Positions(s.table[begin:][:size], s.ids[begin:][:size], s.targets[begin:][:size])
        for s in sequences
    ]
    return SegmentBatch.of([Segment(row, 0, begin == 0, one) for row, one in enumerate(pieces)], 0)


def read_in_pieces(model, sequences, size, carry=True, masked=True):
    """Sum of the losses, the state at the end, and how many pieces it took."""
    objective, held, total, begin = ContinuedCodes(Codes.Config(), model, {}), None, 0.0, 0
    longest = max(len(one.table) for one in sequences)
    while begin < longest:
        batch = cut(sequences, begin, size)
        mask = batch.mask if masked else torch.ones_like(batch.mask)
        loss, _, after = objective(batch.table, batch.ids, batch.targets, mask, batch.first, held)
        total, begin = total + loss, begin + size
        held = detached(after) if carry else None
    return total, held


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_and_the_last_state_of_cut_sequences_are_those_of_whole_ones(tmp_path, backbone):
    model, sequences, *_ = parts(tmp_path, backbone)
    whole = collate(sequences, range(3))
    with torch.no_grad():
        expected, _ = model.loss(whole.table, whole.ids, whole.targets, whole.mask)
        _, last = model(whole.table, whole.ids, mask=whole.mask)
        for size in (1, 7, 16):
            total, state = read_in_pieces(model, sequences, size)
            assert float(total) == pytest.approx(float(expected), rel=1e-6)
            for name, part in last.items():
                torch.testing.assert_close(state[name], part, rtol=1e-4, atol=2e-6)


def test_the_comparison_sees_a_state_that_is_dropped_and_a_pad_that_touches_it(tmp_path):
    model, sequences, *_ = parts(tmp_path)
    with torch.no_grad():
        right, state = read_in_pieces(model, sequences, 7)
        dropped, _ = read_in_pieces(model, sequences, 7, carry=False)
        _, padded = read_in_pieces(model, sequences, 7, masked=False)
    assert abs(float(dropped - right)) > 1e-3 * float(right)
    shortest = min(range(3), key=lambda row: len(sequences[row].table))
    assert not torch.allclose(
        padded["blocks.0.wkv"][shortest], state["blocks.0.wkv"][shortest], atol=1e-3
    )


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_segment_that_holds_the_sequence_has_the_whole_gradient(tmp_path, backbone):
    model, sequences, *_ = parts(tmp_path, backbone)
    whole = collate(sequences, range(3))
    loss, _ = model.loss(whole.table, whole.ids, whole.targets, whole.mask)
    expected = gradient(model, loss)
    total, _ = read_in_pieces(model, sequences, 10_000)
    torch.testing.assert_close(gradient(model, total), expected, rtol=1e-5, atol=1e-6)
    # and two of them have less: the loss is the same, the way back is cut
    total, _ = read_in_pieces(model, sequences, 16)
    assert total.item() == pytest.approx(loss.item(), rel=1e-5)
    assert (gradient(model, total) - expected).norm() > 1e-3 * expected.norm()


def test_every_row_reads_whole_sequences_in_order(tmp_path):
    _, _, corpus, layout = parts(tmp_path)
    corpus = corpus.take(torch.arange(5).numpy())
    streams = SegmentStreams(corpus, layout, rows=2, segment=9, seed=4)
    steps = [streams.take() for _ in range(60)]
    seen = []
    for row in range(2):
        read = [step[row] for step in steps]
        begins = [at for at, one in enumerate(read) if one.first]
        for begin, end in zip(begins, begins[1:], strict=False):
            pieces = read[begin:end]
            assert len({(one.utterance, one.epoch) for one in pieces}) == 1
            assert all(len(one.positions.table) == 9 for one in pieces[:-1])
            expected = lay_out(corpus, layout, pieces[0].utterance, 4, pieces[0].epoch)
            targets = torch.cat([one.positions.targets for one in pieces])
            assert torch.equal(targets, expected.targets)
            seen.append((pieces[0].epoch, pieces[0].utterance))
    assert sorted(utterance for epoch, utterance in seen if epoch == 0) == list(range(5))
    other = SegmentStreams(corpus, layout, rows=2, segment=9, seed=4)
    for _ in range(7):
        other.take()
    resumed = SegmentStreams(corpus, layout, rows=2, segment=9, seed=4)
    resumed.restore(json.loads(json.dumps(other.progress())))
    for expected, found in zip(steps[7], resumed.take(), strict=True):
        assert (found.utterance, found.first) == (expected.utterance, expected.first)
        assert torch.equal(found.positions.ids, expected.positions.ids)
    with pytest.raises(CheckpointError, match="2 rows in a step, and this run has 3"):
        SegmentStreams(corpus, layout, rows=3, segment=9, seed=4).restore(other.progress())


def test_a_state_is_carried_in_float32_at_least_and_cut_off():
    kinds = {"low": torch.bfloat16, "half": torch.float16, "plain": torch.float32}
    kinds |= {"wide": torch.float64, "count": torch.int16, "length": torch.int64}
    after = {name: torch.arange(3).to(kind) for name, kind in kinds.items()}
    after["low"].requires_grad_()
    carried = detached(after)
    assert {name: part.dtype for name, part in carried.items()} == kinds | {
        "low": torch.float32, "half": torch.float32,
    }  # fmt: skip
    assert all(part.tolist() == [0, 1, 2] and not part.requires_grad for part in carried.values())


def test_a_row_that_begins_takes_nothing_over_and_keeps_its_gradient():
    backbone = Recurrent()
    first = torch.nn.Parameter(torch.randn(16))
    backbone.init_state = lambda batch, device=None: {"h": first.repeat(batch, 1)}
    held = {"h": torch.randn(3, 16)}
    state = state_before(backbone, torch.tensor([True, False, True]), held)["h"]
    assert torch.equal(state[1], held["h"][1])
    assert torch.equal(state[0], first) and torch.equal(state[2], first)
    state.sum().backward()
    assert torch.equal(first.grad, torch.full((16,), 2.0))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_run_killed_inside_a_sequence_goes_on_exactly(tmp_path, monkeypatch, backbone):
    recipe, words = str(write_recipe(tmp_path, dropout=0.2)), [*BACKBONES[backbone], *CUT]
    assert main([recipe, f"out={tmp_path}/whole", *words]) == 0
    heal = kill_before(monkeypatch, 5)
    with pytest.raises(Killed):
        main([recipe, f"out={tmp_path}/cut", *words])
    heal()
    where = next((tmp_path / "cut" / "checkpoints").glob("*4")) / "state.json"
    rows = json.loads(where.read_text())["streams"]["rows"]
    assert len(rows) == 6 and any(begin for _, begin in rows)
    assert main([recipe, f"out={tmp_path}/cut", *words]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ours, theirs = (
        read_tensors(tmp_path / run / "export" / "model.safetensors") for run in ("cut", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_comparison_sees_states_that_do_not_come_back(tmp_path, monkeypatch):
    recipe, words = str(write_recipe(tmp_path)), [*CUT, "precision=bf16", RWKV7]
    main([recipe, f"out={tmp_path}/whole", *words])
    heal = kill_before(monkeypatch, 5)
    with pytest.raises(Killed):
        main([recipe, f"out={tmp_path}/cut", *words])
    heal()
    carried = read_tensors(next((tmp_path / "cut").glob("checkpoints/*4/carried.safetensors")))
    kinds = {part.dtype for name, part in carried.items() if name != "row"}
    assert kinds == {torch.float32}
    right = truncated_bptt.select_rows

    def forgetful(*words):
        return {name: torch.zeros_like(part) for name, part in right(*words).items()}

    monkeypatch.setattr(truncated_bptt, "select_rows", forgetful)
    main([recipe, f"out={tmp_path}/cut", *words])
    before_, after = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert before_[:4] == after[:4] and before_ != after


def test_without_carrying_another_model_comes_out(tmp_path):
    recipe = str(write_recipe(tmp_path))
    main([recipe, f"out={tmp_path}/carried", *CUT])
    main([recipe, f"out={tmp_path}/anew", *CUT, "carry=false"])
    assert losses(tmp_path / "carried") != losses(tmp_path / "anew")


def test_what_cannot_be_cut_is_refused(tmp_path):
    recipe = str(write_recipe(tmp_path))
    with pytest.raises(ConfigError, match="17 positions does not fit into a batch of 16"):
        main([recipe, "segment_positions=17", "batch_positions=16"])
    main([recipe, "steps=2"])
    with pytest.raises(CheckpointError, match="training on whole sequences") as caught:
        main([recipe, "--change", "steps=4", "segment_positions=16"])
    assert "new run" in caught.value.do

    class Growing(Recurrent):
        caps = Caps(constant_state=False)

    class Unmasked(Recurrent):
        caps = Caps(constant_state=True, varlen=False)

    with pytest.raises(CapabilityError, match="does not say how long"):
        require_carried_state(Growing())
    with pytest.raises(CapabilityError, match="varlen"):
        require_carried_state(Unmasked())
    require_carried_state(Recurrent())


@pytest.mark.timeout(600)
def test_two_processes_read_the_rows_of_one(tmp_path):
    recipe = write_recipe(tmp_path)
    words = [RWKV7, "segment_positions=16", "batch_positions=48", "steps=6"]
    commands = [
        [recipe, f"out={tmp_path}/{shard}", f"shard={shard}", *words] for shard in ("none", "full")
    ]
    said = together(*commands, limit=500)
    assert not any(said), said
    main([str(recipe), f"out={tmp_path}/alone", *words, "accumulate=2"])
    alone = losses(tmp_path / "alone")
    for shard in ("none", "full"):
        both = losses(tmp_path / shard)
        assert [step for step, _ in both] == [step for step, _ in alone]
        assert [loss for _, loss in both] == pytest.approx([loss for _, loss in alone], rel=1e-5)
    # and one process goes on from what two wrote
    main([str(recipe), "--change", f"out={tmp_path}/none", *words, "accumulate=2", "steps=8"])
    main([str(recipe), "--change", f"out={tmp_path}/alone", *words, "accumulate=2", "steps=8"])
    ours, theirs = losses(tmp_path / "none")[-1], losses(tmp_path / "alone")[-1]
    assert ours[1] == pytest.approx(theirs[1], rel=1e-4)
