"""Distillation: the losses by hand, what is trained and what is not, refusals."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wishbone.core.config.compose import dump
from wishbone.core.contract.errors import ConfigError, UnknownName
from wishbone.core.contract.layout import IGNORE
from wishbone.core.contract.stack.mixer import Call
from wishbone.core.system.build import build_model
from wishbone.core.system.spec import resolve
from wishbone.core.testing import trained_looking_
from wishbone.core.train.objectives import build_objective
from wishbone.core.weights.checkpoint import save
from wishbone.plugins.distil.capture import capture_mixers, run_mixers
from wishbone.plugins.distil.logits import divergence

TRANSFORMER = {"name": "transformer", "width": 32, "layers": 2, "heads": 4, "kv_heads": 2,
               "ffn_width": 48}  # fmt: skip
ARWKV = {"name": "arwkv", "width": 32, "layers": 2, "ffn_width": 48, "head_size": 16}
RWKV7 = {"name": "rwkv7", "width": 48, "layers": 1, "head_size": 16}
COUNT = 3**8 + 2
"""Ids of the codec and the two of the layout."""


def system(backbone=ARWKV, **slots):
    return resolve(
        {
            "tokenizer": {"name": "phonemes"},
            "speech_tokenizer": {"name": "fsqcodec", "width": 16, "fine_blocks": 1, "blocks": 1},
            "layout": {"name": "cosyvoice2", "pace": "words"},
            "backbone": backbone,
            "head": {"name": "fsq", "rank": 4},
            "decoder": {"name": "fsqcodec"},
        }
        | slots
    )


def trained(config, seed):
    """A model whose weights look trained."""
    torch.manual_seed(seed)
    return trained_looking_(build_model(config), seed)


def student(objective, folder, backbone=ARWKV, seed=2, **fields):
    """The objective around a student that looks trained, the teacher being in ``folder``."""
    config = system(backbone)
    fields = {"name": objective, "teacher": str(folder)} | fields
    return build_objective(fields, trained(config, seed).train(), config)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Folder of a Transformer whose weights look trained."""
    folder = tmp_path_factory.mktemp("teacher") / "export"
    config = system(TRANSFORMER)
    return save(folder, trained(config, 1), config | {"weights": "."}, {})


@pytest.fixture
def batch():
    """table, ids, targets, mask of two sequences, one of them padded, as ``collate`` makes them."""
    random = torch.Generator().manual_seed(5)
    table = torch.tensor([[2, 1, 1, 0, 0, 0, 0], [2, 1, 0, 0, 0, 0, 0]])
    ids = torch.randint(2, (2, 7, 1), generator=random)
    targets = torch.randint(COUNT, (2, 7, 1), generator=random)
    targets[:, :2] = IGNORE
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 5:] = False
    targets[1, 5:] = IGNORE
    return table, ids, targets, mask


def gradients(objective, batch):
    total, count = objective(*batch)
    (total / count).backward()
    return {n for n, p in objective.model.named_parameters() if p.grad is not None and p.grad.any()}


def test_the_distance_is_that_of_the_formula(teacher, batch):
    objective = student("align", teacher)
    total, count = objective(*batch)
    assert count == 12 == objective.count(batch[2], batch[3])
    model = objective.teacher.model
    with torch.no_grad():
        x = model.embed(*batch[:2])
        expected = 0.0
        # by hand, layer by layer: the input of attention, and the outputs of both on it
        past, state = model.backbone, objective.model.backbone.init_state(2)
        theirs, ours = (Call(start=torch.zeros(2, dtype=torch.int64)) for _ in range(2))
        for i, block in enumerate(past.blocks):
            h = block.norm_attention(x)
            cache = block.attention.init_state(2, h.device, h.dtype)
            target, _ = block.attention(h, cache, theirs)
            names = ("wkv", "time_shift")
            output, _ = objective.model.backbone.blocks[i].time_mix(
                h, {name: state[f"blocks.{i}.{name}"] for name in names}, ours
            )
            distance = ((target - output) ** 2).sum(-1).sqrt() / 32**0.5
            expected += float(distance[batch[3]].sum()) / 2
            x = x + target
            x = x + block.ffn(block.norm_ffn(x), {}, theirs)[0]
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)


def test_a_silent_mixer_scores_one_relative_to_the_teacher(teacher, batch):
    objective = student("align", teacher, measure="relative")
    for block in objective.model.backbone.blocks:
        nn.init.zeros_(block.time_mix.output.weight)
    total, count = objective(*batch)
    assert float(total.detach() / count) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("measure", ["distance", "relative"])
def test_the_teacher_as_its_own_student_has_nothing_to_learn(teacher, batch, measure):
    objective = student("align", teacher, TRANSFORMER, measure=measure)
    assert float(objective(*batch)[0]) == 0
    assert gradients(objective, batch) == set()
    # the check can fail: one number of one mixer, and there is something
    with torch.no_grad():
        objective.model.backbone.blocks[1].attention.output.weight[0, 0] += 0.1
    assert float(objective(*batch)[0]) > 0


def test_alignment_changes_nothing_but_the_students_mixers(teacher, batch):
    objective = student("align", teacher)
    touched = gradients(objective, batch)
    mixers = {n for n, _ in objective.model.named_parameters() if ".time_mix." in n}
    assert touched == mixers
    assert {n for n, p in objective.model.named_parameters() if p.requires_grad} == mixers


def test_alignment_leaves_frozen_what_the_recipe_froze(teacher, batch):
    config = system()
    model = build_model(config)
    for parameter in model.backbone.blocks[0].time_mix.parameters():
        parameter.requires_grad_(False)
    fields = {"name": "align", "teacher": str(teacher)}
    touched = gradients(build_objective(fields, model, config), batch)
    assert touched and all(name.startswith("backbone.blocks.1.time_mix") for name in touched)


def test_layers_learn_apart(teacher, batch):
    """The training of layer 1 depends on no gradient of layer 0, nor on what it answers."""
    objective = student("align", teacher)
    backbone, model = objective.model.backbone, objective.teacher.model
    x = model.embed(*batch[:2]).detach()
    inputs, targets = capture_mixers(model.backbone, x, batch[3])
    before = run_mixers(backbone, x, batch[3], inputs)
    (before[1] - targets[1]).square().sum().backward()
    assert all(p.grad is None for p in backbone.blocks[0].parameters())
    with torch.no_grad():
        backbone.blocks[0].time_mix.output.weight.mul_(3)
    after = run_mixers(backbone, x, batch[3], inputs)
    assert torch.equal(after[1], before[1]) and not torch.equal(after[0], before[0])
    # in an ordinary call it does depend
    plain = capture_mixers(backbone, x, batch[3])[1][1]
    with torch.no_grad():
        backbone.blocks[0].time_mix.output.weight.mul_(3)
    assert not torch.equal(capture_mixers(backbone, x, batch[3])[1][1], plain)


def test_no_hook_is_left_behind(teacher, batch):
    objective = student("align", teacher)
    objective(*batch)
    for model in (objective.model, objective.teacher.model):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["align", "logits"])
def test_padding_and_splitting_change_no_loss(teacher, batch, name):
    objective = student(name, teacher).eval()
    with torch.no_grad():
        total, count = objective(*batch)
        parts = [objective(*(t[b : b + 1, :n] for t in batch)) for b, n in ((0, 7), (1, 5))]
        assert count == sum(part[1] for part in parts)
        torch.testing.assert_close(total, sum(part[0] for part in parts))
        # what stands in the padding is read by nobody
        table, ids, targets, mask = (tensor.clone() for tensor in batch)
        ids[1, 5:], targets[1, 5:] = 1, 7
        torch.testing.assert_close(objective(table, ids, targets, mask)[0], total)


@pytest.mark.parametrize("name", ["align", "logits"])
def test_a_batch_without_targets_teaches_nothing_and_reaches_every_weight(teacher, batch, name):
    objective = student(name, teacher)
    total, count = objective(batch[0], batch[1], torch.full_like(batch[2], IGNORE), batch[3])
    assert float(total) == 0 == int(count)
    total.backward()
    trained = [p for p in objective.model.parameters() if p.requires_grad]
    reached = [p for p in trained if p.grad is not None]
    assert len(reached) >= 20 and not any(p.grad.any() for p in reached)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergence_is_that_of_the_formula_and_of_torch(temperature):
    random = torch.Generator().manual_seed(3)
    q_logits, p_logits = torch.randn(2, 5, 11, generator=random, dtype=torch.float64)
    actual = divergence(q_logits, p_logits, temperature)
    p, q = (torch.exp(x / temperature) for x in (p_logits, q_logits))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    torch.testing.assert_close(actual, temperature**2 * (p * (p / q).log()).sum(-1))
    ours = F.kl_div(q.log(), p, reduction="none").sum(-1)
    torch.testing.assert_close(actual, temperature**2 * ours)
    assert (actual > 0.01).all()
    # the other way round it is another number
    assert not torch.allclose(actual, divergence(p_logits, q_logits, temperature))


def test_the_divergence_has_the_gradient_of_the_formula():
    """Finite differences; with one code that neither says and one that only the student says."""
    random = torch.Generator().manual_seed(3)
    q_logits, p_logits = torch.randn(2, 3, 6, generator=random, dtype=torch.float64)
    p_logits[:, 4] = float("-inf")
    q_logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence(x, p_logits, 1.7), q_logits)
    never = torch.where(torch.arange(6) == 5, float("-inf"), q_logits)
    both = torch.where(torch.arange(6) == 5, float("-inf"), p_logits)
    slope = torch.autograd.grad(divergence(never, both, 1.0).sum(), q_logits)[0]
    assert slope.isfinite().all() and slope.any()


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.3, 2.0)])
def test_the_second_stages_loss_is_that_of_the_formula(teacher, batch, weights):
    kl, ce = weights
    objective = student("logits", teacher, RWKV7, kl_weight=kl, ce_weight=ce, temperature=2.0)
    total, count = objective(*batch)
    assert count == 8 == objective.count(batch[2], batch[3])
    rows = batch[2][..., 0] != IGNORE
    logits = [
        model.head(model(batch[0], batch[1], mask=batch[3])[0])[rows][:, 0].detach()
        for model in (objective.model, objective.teacher.model)
    ]
    p, q = ((x / 2).log_softmax(-1) for x in reversed(logits))
    expected = kl * 4 * (p.exp() * (p - q)).sum()
    expected += ce * F.cross_entropy(logits[0], batch[2][rows][:, 0], reduction="sum")
    torch.testing.assert_close(total.detach(), expected)


def test_a_student_that_says_the_same_has_nothing_to_learn(teacher, batch):
    objective = student("logits", teacher, TRANSFORMER, inherit=True)
    total, count = objective(*batch)
    assert float(total.detach()) == pytest.approx(0, abs=1e-5)
    (total / count).backward()
    slopes = [p.grad.abs().max() for p in objective.model.parameters() if p.grad is not None]
    assert max(slopes) < 1e-6
    assert max(p.grad.abs().max() for p in _other(teacher, batch)) > 1e-3


def _other(teacher, batch):
    objective = student("logits", teacher, TRANSFORMER)
    gradients(objective, batch)
    return [p for p in objective.model.parameters() if p.grad is not None]


def test_all_or_the_mixers_are_trained(teacher, batch):
    touched = gradients(student("logits", teacher, train="mixers"), batch)
    assert touched and all(".time_mix." in name for name in touched)
    touched = gradients(student("logits", teacher), batch)
    assert {"head.output.weight", "tables.text.weight", "backbone.norm_out.weight"} <= touched
    assert any(".ffn." in name for name in touched)


@pytest.mark.parametrize("name", ["align", "logits"])
def test_the_teacher_is_only_read(teacher, batch, name):
    objective = student(name, teacher)
    model = objective.teacher.model
    before = {n: tensor.clone() for n, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    moved = {n: p.detach().clone() for n, p in objective.model.named_parameters()}
    for _ in range(2):
        objective.train()
        optimizer.zero_grad()
        total, count = objective(*batch)
        (total / count).backward()
        optimizer.step()
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    # it is no part of what a checkpoint, an optimiser or another device would take
    teacher_parameters = {id(p) for p in model.parameters()}
    assert teacher_parameters.isdisjoint(map(id, objective.parameters()))
    assert any(not torch.equal(p, moved[n]) for n, p in objective.model.named_parameters())


def test_what_fits_of_the_teacher_is_inherited(teacher):
    objective = student("align", teacher)
    weights, source = objective.model.state_dict(), objective.teacher.model.state_dict()
    mixers = {n for n in weights if ".time_mix." in n}
    assert all(torch.equal(weights[n], source[n]) for n in weights.keys() - mixers)
    weights = student("align", teacher, inherit=False).model.state_dict()
    assert not any(torch.equal(weights[n], source[n]) for n in weights.keys() - mixers)
    # another width: nothing of backbone and tables fits, of the head what has no width
    weights = student("logits", teacher, RWKV7, inherit=True).model.state_dict()
    same = {n for n in weights.keys() & source.keys() if torch.equal(weights[n], source[n])}
    assert same == {"head.own.weight", "head.output.bias", "head.output_own.weight"}


REFUSED = [
    ("align", ARWKV, {"teacher": ""}, "whom to learn from"),
    ("align", ARWKV | {"width": 48}, {}, "48 wide, the teacher .* 32"),
    ("align", ARWKV | {"layers": 3}, {}, "3 mixers, the teacher .* 2"),
    ("align", ARWKV | {"ffn_width": 64}, {}, "ffn_width 64"),
    ("align", ARWKV, {"measure": "angle"}, "no measure 'angle'"),
    ("logits", ARWKV, {"temperature": 0.0}, "temperature: 0.0 is outside"),
    ("logits", ARWKV, {"kl_weight": -1.0, "ce_weight": 2.0}, "kl_weight: -1.0 is outside"),
    ("logits", ARWKV, {"kl_weight": 0.0}, "both 0"),
    ("logits", ARWKV, {"train": "head"}, "'head'"),
]


@pytest.mark.parametrize(("name", "backbone", "fields", "message"), REFUSED)
def test_what_cannot_work_is_refused_in_three_lines(teacher, name, backbone, fields, message):
    with pytest.raises(ConfigError, match=message) as caught:
        student(name, teacher, backbone, **fields)
    assert caught.value.where and caught.value.do


def test_a_teacher_without_weights_or_with_other_tokens_is_refused(teacher, tmp_path):
    bare = tmp_path / "bare.yaml"
    bare.write_text(dump(system(TRANSFORMER)))
    with pytest.raises(ConfigError, match="has no weights"):
        student("logits", bare)
    assert student("logits", bare, teacher_weights=str(teacher)).teacher.weights == str(teacher)
    with pytest.raises(UnknownName, match="quickstart-transfromer") as caught:
        student("logits", "quickstart-transfromer")
    assert "quickstart-transformer" in caught.value.do
    fields = {"name": "logits", "teacher": str(teacher)}
    for slots, message in (
        ({"tokenizer": {"name": "characters"}}, "its tokenizer is phonemes, .* characters"),
        ({"layout": {"name": "cosyvoice2", "fill": False}}, "layout has fill True"),
        ({"layout": {"name": "cosyvoice2", "pace": "ratio"}}, "pace words, the student's ratio"),
    ):
        config = system(**slots)
        with pytest.raises(ConfigError, match=message):
            build_objective(fields, build_model(config, "meta"), config)
    # the same tables: allowed when it is meant, unlike other tables
    build_objective(fields | {"other_layout": True}, build_model(config), config)
    fields["other_layout"] = True
    config = system(speech_tokenizer={"name": "cosyvoice2"}, decoder={"name": "cosyvoice2"},
                    head={"name": "linear"})  # fmt: skip
    with pytest.raises(ConfigError, match="its speech_tokenizer is fsqcodec"):
        build_objective(fields, build_model(config, "meta"), config)


def test_a_student_or_teacher_without_mixers_is_refused(teacher, monkeypatch):
    config = system()
    model = build_model(config)
    monkeypatch.setattr(type(model.backbone), "mixers", lambda self: ())
    fields = {"name": "align", "teacher": str(teacher)}
    with pytest.raises(ConfigError, match="student is a ARWKV, which names no mixers"):
        build_objective(fields, model, config)
    with pytest.raises(ConfigError, match="names no mixers"):
        build_objective(fields | {"name": "logits", "train": "mixers"}, model, config)
    build_objective(fields | {"name": "logits"}, model, config)
