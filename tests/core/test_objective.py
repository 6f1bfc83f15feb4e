"""What training makes small: checked like a slot, divided by what it counts."""

import pytest
import torch
from tiny_system import tiny_system

from wishbone.core.cli.plugins import fields_of
from wishbone.core.contract.errors import ConfigError, UnknownName
from wishbone.core.contract.layout import IGNORE
from wishbone.core.train.objectives import Codes, build_objective, resolve_objective
from wishbone.plugins.distil.logits import Logits


def test_the_recipes_objective_is_checked_like_a_slot():
    assert resolve_objective({"objective": {"name": "codes"}}) == {"name": "codes"}
    found = resolve_objective({"objective": {"name": "align", "teacher": "x"}})
    assert found["measure"] == "distance" and found["inherit"] is True
    with pytest.raises(UnknownName, match="aling"):
        resolve_objective({"objective": {"name": "aling"}})
    with pytest.raises(ConfigError, match="temprature"):
        resolve_objective({"objective": {"name": "logits", "temprature": 2}})
    with pytest.raises(ConfigError, match="does not say which"):
        resolve_objective({"objective": "codes"})


def test_the_ordinary_objective_is_the_models_loss():
    model = tiny_system().model
    objective = build_objective({"name": "codes"}, model, {})
    assert isinstance(objective, Codes) and objective.about() == {}
    table = torch.tensor([[2, 1, 0, 0]])
    ids = torch.tensor([[[0], [3], [7], [9]]])
    targets = torch.tensor([[[IGNORE], [7], [9], [4]]])
    mask = torch.tensor([[True, True, True, False]])
    total, count = objective(table, ids, targets, mask)
    assert count == 2 == objective.count(targets, mask)
    assert torch.equal(total, model.loss(table, ids, targets, mask)[0])
    assert list(objective.shardable()) == list(model.backbone.shardable())


def test_fields_that_a_config_inherits_are_told_with_their_sentences():
    told = {name: sentence for name, _, _, sentence in fields_of(Logits.Config)}
    assert told["teacher"].startswith("Name, file or folder") and told["temperature"]
    assert all(told.values())
