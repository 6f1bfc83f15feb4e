"""What the arms cost, and what is said when they cost different amounts."""

import ast
import importlib
import importlib.util
from dataclasses import replace

import pytest
import torch
from tiny_system import WIDTH, tiny_system

from wishbone.core.config.compose import Config
from wishbone.core.evaluate.experiment import budget
from wishbone.core.evaluate.experiment.plan import Arm
from wishbone.core.evaluate.measure import speed


def arm(key="one", **values):
    return Arm(key, key, Config({"backbone": {"name": "tiny"}, **values}))


def test_parts_add_up_and_state_is_the_backbones_formula():
    system = tiny_system()
    found = budget.budget(arm(), system)
    parts = ("parameters_backbone", "parameters_head", "parameters_tables")
    assert found.parameters == sum(getattr(found, part) for part in parts)
    assert found.parameters == sum(p.numel() for p in system.model.parameters())
    assert found.state_bytes == {"1": 4 * WIDTH, "10": 4 * WIDTH, "60": 4 * WIDTH}
    rows = system.decoder.codes.size + system.layout.extra
    matrices = sum(p.numel() for p in system.model.backbone.parameters() if p.ndim > 1)
    assert found.flops_per_second["10"] == 25 * (2 * matrices + 2 * WIDTH * rows)
    assert found.training_codes is None


def test_training_tokens_come_from_provenance(tmp_path):
    (tmp_path / "provenance.json").write_text(
        '{"notes": {"hours": 2.0, "steps": 10, "recipe": {"batch_positions": 8}}}'
    )
    found = budget.budget(arm(weights=str(tmp_path)), tiny_system())
    assert found.training_codes == 2 * 3600 * 25
    assert found.training_positions == 80


def test_all_stages_of_a_training_count(tmp_path):
    stage = '{"steps": 5, "recipe": {"batch_positions": 8, "accumulate": 2}}'
    (tmp_path / "provenance.json").write_text(
        f'{{"notes": {{"steps": 10, "minutes": 3, "recipe": {{"batch_positions": 8}},'
        f' "before": [{stage}]}}}}'
    )
    found = budget.budget(arm(weights=str(tmp_path)), tiny_system())
    assert (found.training_steps, found.training_positions) == (15, 160)
    lines = dict(budget.rows([found]))
    assert lines["training steps"] == ["15 (5 + 10)"]
    assert lines["minutes of training"] == ["3 (last stage)"]


def test_unequal_sizes_are_named():
    size = budget.budget(arm(), tiny_system())

    def unmatched(*counts):
        return budget.unmatched(
            {key: replace(size, parameters=n) for key, n in zip("ab", counts, strict=True)}
        )

    assert unmatched(1000, 1009) == ""
    said = unmatched(1000, 1100)
    assert "b +10.0%" in said


def test_the_table_reads_without_provenance():
    lines = dict(budget.rows([budget.budget(arm(), tiny_system())]))
    assert lines["state after 60 s"] == ["64 B"]
    assert lines["held-out loss"] == ["unknown"]
    assert lines["engine of the decoding steps"] == ["eager"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(12, "12 B"), (2048, "2.0 KiB"), (3 * 2**20, "3.0 MiB"), (2**31, "2.00 GiB")],
)
def test_bytes_for_people(count, shown):
    assert budget.size(count) == shown


def test_shared_parameters_count_once():
    table = torch.nn.Embedding(3, 2)
    assert budget.count(torch.nn.ModuleList([table, table])) == 6


def test_the_process_that_measures_memory_imports_what_exists():
    # its errors are taken for "cannot be measured", so a module that moved would go unnoticed
    imports = [n for n in ast.walk(ast.parse(speed._CHILD)) if isinstance(n, ast.ImportFrom)]
    assert len(imports) == 2
    for statement in imports:
        module = importlib.import_module(statement.module)
        for name in statement.names:
            assert hasattr(module, name.name) or importlib.util.find_spec(
                f"{statement.module}.{name.name}"
            )
