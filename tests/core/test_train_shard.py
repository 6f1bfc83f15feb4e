"""Weights shared out among two processes: the same training, checkpoints for any number."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from tiny_corpus import write_recipe
from two_processes import losses, together

from wishbone.core.contract.errors import CheckpointError, ConfigError, PluginBroken

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.cli.train import main  # noqa: E402
from wishbone.core.train.distributed import fsdp  # noqa: E402
from wishbone.core.weights.tensor_files import read_tensors  # noqa: E402

# the processes import torch, which takes minutes on a busy machine
pytestmark = pytest.mark.timeout(600)

RWKV7 = "system.backbone={name: rwkv7, width: 32, layers: 2, head_size: 16}"
SHARED = {
    "full": [],
    "rwkv7": [RWKV7],
    # utterances that fill a batch alone leave the other process without work
    "idle": ["batch_positions=60", "steps=4"],
    "twice": ["batch_positions=200", "accumulate=2"],
}
"""Runs of two processes that share everything out, and what differs from the recipe."""
ALONE = {
    "full": ["batch_positions=800"],
    "rwkv7": ["batch_positions=800", RWKV7],
    "idle": ["batch_positions=120", "steps=4"],
    "twice": ["accumulate=4", "batch_positions=200"],
}
"""The same steps of one process."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a recipe, and the runs of ``SHARED`` in it."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = write_recipe(folder)
    commands = [
        [recipe, f"out={folder}/{name}", "shard=full", *words] for name, words in SHARED.items()
    ]
    for shard in ("none", "full"):
        words = [f"out={folder}/bf16-{shard}", f"shard={shard}", "precision=bf16", "steps=4"]
        commands.append([recipe, *words, "samples=[We go.]"])
    # a rate at which the weights run away, without the clip that would hold them
    away = [recipe, f"out={folder}/away", "shard=full", "learning_rate=1e30", "clip=0"]
    said = together(*commands, away, limit=400)
    assert all("not finite" in words for words in said), said
    return folder


@pytest.mark.parametrize("name", SHARED)
def test_sharing_out_changes_no_loss_and_no_weight(runs, name):
    recipe, alone = runs / "recipe.yaml", runs / f"{name}-alone"
    assert main([str(recipe), f"out={alone}", *ALONE[name]]) == 0
    ours, theirs = losses(runs / name), losses(alone)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    for (_, loss), (_, other) in zip(ours, theirs, strict=True):
        assert loss == pytest.approx(other, rel=1e-5)
    ours, theirs = exported(runs / name), exported(alone)
    assert ours.keys() == theirs.keys()
    for tensor, weights in theirs.items():
        torch.testing.assert_close(ours[tensor], weights, rtol=1e-3, atol=2e-5)
    # six steps at this rate move weights far beyond that: the comparison can fail
    moved = max(float((ours[t] - w).abs().max()) for t, w in untrained(runs, name).items())
    assert moved > 1e-3


def test_sharing_out_under_autocast_is_summing_gradients(runs):
    ours, theirs = losses(runs / "bf16-full"), losses(runs / "bf16-none")
    # a difference in the last digit of float32 may round another way to bfloat16
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-4)
    # rounded numbers give other losses than exact ones: autocast was on
    assert ours[:3] != losses(runs / "full")[:3]


def test_samples_are_spoken_with_weights_put_together(runs):
    pytest.importorskip("gruut", reason="pip install gruut for the phoneme tokenizer")
    names = [path.name for path in (runs / "bf16-full" / "samples").iterdir()]
    assert sorted(names) == ["step-00000002-0.wav", "step-00000004-0.wav"]


def test_a_step_leaves_a_process_without_work(runs):
    from wishbone.core.data.corpora import read_corpus
    from wishbone.core.train.batches import BatchPlan, split_held_out
    from wishbone.core.train.recipe import read_recipe

    recipe, system = read_recipe(runs / "recipe.yaml", ALONE["idle"])
    corpus = read_corpus(recipe.data, system)
    corpus = corpus.take(split_held_out(corpus, recipe.held_out)[0])
    plan = BatchPlan(corpus.positions(), recipe.batch_positions, recipe.seed)
    assert 1 in [len(plan.rows(step)[1]) for step in range(recipe.steps)]


def exported(run):
    return read_tensors(run / "export" / "model.safetensors")


def untrained(runs, name):
    """The weights that a run began with."""
    from wishbone.core.system.build import build_model
    from wishbone.core.train.recipe import read_recipe

    recipe, system = read_recipe(runs / "recipe.yaml", ALONE[name])
    torch.manual_seed(recipe.seed)
    return build_model(system).state_dict()


def test_each_process_writes_its_share_and_none_writes_a_pickle(runs):
    files = [path.name for path in (runs / "full" / "checkpoints" / "step-00000006").iterdir()]
    shares = [f"{part}-0000{rank}-of-00002" for part in PARTS for rank in (0, 1)]
    assert sorted(files) == sorted([f"{share}.safetensors" for share in shares] + ["state.json"])
    folder = runs / "full" / "checkpoints" / "step-00000006"
    first, second = (
        read_tensors(folder / f"optimizer-0000{rank}-of-00002.safetensors") for rank in (0, 1)
    )
    table = "exp_avg/head.output.weight"
    whole = exported(runs / "full")["head.output.weight"]
    assert len(first[table]) + len(second[table]) == len(whole)
    assert first[table].shape != whole.shape


PARTS = ("model", "average", "optimizer")


def killed(runs, name):
    """A copy of the run of ``full`` as a kill after step 5 would have left it."""
    cut = runs / name
    shutil.copytree(runs / "full", cut)
    shutil.rmtree(cut / "export")
    shutil.rmtree(cut / "checkpoints" / "step-00000006")
    lines = (cut / "log.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] < 6]
    (cut / "log.jsonl").write_text("\n".join(kept) + '\n{"step": 6, "lo')
    return cut


def test_two_processes_go_on_exactly_and_one_goes_on_from_two(runs):
    recipe, pair, alone = runs / "recipe.yaml", killed(runs, "pair"), killed(runs, "single")
    back = runs / "back"
    assert main([str(recipe), f"out={alone}", "accumulate=2"]) == 0
    # and two go on from what one wrote
    shutil.copytree(alone, back)
    shutil.rmtree(back / "export")
    shutil.rmtree(back / "checkpoints" / "step-00000006")
    assert together(
        [recipe, f"out={pair}", "shard=full"],
        [recipe, f"out={back}", "shard=full"],
        limit=400,
    ) == ["", ""]
    assert losses(pair) == losses(runs / "full")
    ours, theirs = exported(pair), exported(runs / "full")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for run in (alone, back):
        for (_, loss), (_, other) in zip(losses(run), losses(runs / "full"), strict=True):
            assert loss == pytest.approx(other, rel=1e-5)


def test_other_steps_are_refused_and_other_ways_to_make_them_are_not(runs):
    cut = killed(runs, "fewer")
    with pytest.raises(ConfigError, match="positions_per_step") as caught:
        main([str(runs / "recipe.yaml"), f"out={cut}"])
    assert "--change" in caught.value.do


def test_a_share_that_is_missing_or_cut_short_is_named(runs):
    cut = killed(runs, "torn")
    path = cut / "checkpoints" / "step-00000004" / "average-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    words = [str(runs / "recipe.yaml"), f"out={cut}", "accumulate=2"]
    with pytest.raises(CheckpointError, match="'average' of the checkpoint cannot be read"):
        main(words)
    path.unlink()
    with pytest.raises(CheckpointError, match="not all here: 1 files of its share") as caught:
        main(words)
    assert str(path.parent) in caught.value.where


def test_weights_that_run_away_stop_every_process(runs):
    assert not (runs / "away" / "export").exists()
    assert list((runs / "away").glob("not-finite-*.json"))


@pytest.mark.parametrize("backbone", ["rwkv7", "transformer"])
def test_what_a_backbone_names_holds_nearly_all_of_it_and_is_called(backbone):
    from wishbone.core.registry.loader import registry

    cls = registry().get("backbone", backbone)
    part = cls(cls.small_config())
    named, called = part.shardable(), []
    for module in named:
        module.register_forward_hook(lambda module, *_: called.append(module))
    part(torch.randn(1, 3, part.width))
    assert [id(module) for module in called] == [id(module) for module in named]
    inside = sum(p.numel() for module in named for p in module.parameters())
    assert inside > 0.9 * sum(p.numel() for p in part.parameters())


def test_a_backbone_that_names_what_is_not_its_own_is_told_so():
    from wishbone.core.registry.loader import registry

    cls = registry().get("backbone", "transformer")
    part = cls(cls.small_config())
    fsdp.require_disjoint(part, part.shardable())
    for wrong in ([torch.nn.Linear(1, 1)], [part, part.blocks[0]]):
        with pytest.raises(PluginBroken, match="shardable"):
            fsdp.require_disjoint(part, wrong)


@pytest.mark.parametrize("limit", [0.0, 0.5, 1e6])
def test_a_gradient_in_shares_is_clipped_to_the_length_of_a_whole_one(monkeypatch, limit):
    monkeypatch.setattr(fsdp, "is_share", lambda tensor: True)
    monkeypatch.setattr(fsdp, "local", lambda tensor: tensor)
    # the other process holds as many rows with the same gradient
    group = SimpleNamespace(sum_=lambda square: 2 * square)
    shares = [torch.nn.Parameter(torch.zeros(size)) for size in ((3, 2), (4,), (5,))]
    for share in shares[:2]:
        share.grad = torch.ones_like(share)
    norm = fsdp.clip_gradients_(shares, limit, group)
    assert norm == pytest.approx(20**0.5)
    factor = min(1.0, limit / norm) if limit else 1.0
    for share in shares[:2]:
        torch.testing.assert_close(share.grad, torch.full_like(share, factor))
    assert shares[2].grad is None
