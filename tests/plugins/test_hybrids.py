"""Hybrids by a pattern of layers, as the table of ``plugins/MIXERS.md`` has them."""

from pathlib import Path

import pytest
import torch

from wishbone.core.config.compose import compose
from wishbone.core.system.spec import parse, read
from wishbone.core.testing import check

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs/system").glob("hybrid-*.yaml"))
PAGE = (ROOT / "plugins/MIXERS.md").read_text()
PATTERNS = {"gdn-3-1": "GGGA", "mamba2-1-1": "AM", "mamba2-1-3": "AMMM", "mamba2-1-5": "AMMMMM",
            "mamba2-1-11": "AMMMMMMMMMMM"}  # fmt: skip


def slot(name, *overrides):
    return parse(read(name, overrides)).slots["backbone"]


def test_all_patterns_are_there():
    assert NAMES == sorted(f"hybrid-{pattern}" for pattern in PATTERNS)


@pytest.mark.parametrize("name", NAMES)
def test_mixers_stand_in_the_order_of_the_name(name):
    backbone = slot(name).build()
    letters = {"GatedDeltaNet": "G", "Attention": "A", "Mamba2": "M"}
    row = "".join(letters[type(half).__name__] for half in backbone.mixers())
    assert row == (PATTERNS[name.removeprefix("hybrid-")] * 12)[:12]
    other = slot("quickstart-rwkv7")
    count = sum(p.numel() for p in backbone.parameters())
    assert count == pytest.approx(other.cls.count_parameters(other.config), rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_contract_of_a_backbone(name):
    fields = {k: v for k, v in compose(name)["backbone"].items() if k != "name"}
    config = slot(name).cls.Config(**{**fields, "width": 64, "ffn_width": 64})
    results = check("backbone", "stack", config)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_table_has_its_bytes(name):
    backbone = slot(name).build()
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
    for count in (25, 1500):
        assert f"| {backbone.state_bytes(count):,}".replace(",", " ") in row
    state = backbone.init_state(1)
    _, state = backbone(torch.randn(1, 25, 128), state)
    assert sum(t.nbytes for t in state.values()) == backbone.state_bytes(25)
