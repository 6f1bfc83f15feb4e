"""Every registered part keeps its contract."""

import pytest

from wishbone.core.contract.errors import MissingExtra
from wishbone.core.registry.loader import registry
from wishbone.core.registry.registry import KINDS
from wishbone.core.testing import check

PARTS = [(kind, key) for kind in KINDS for key in registry().names(kind)]


@pytest.mark.parametrize(("kind", "key"), PARTS, ids=[f"{kind}-{key}" for kind, key in PARTS])
def test_contract(kind, key):
    try:
        results = check(kind, key)
    except MissingExtra as missing:
        pytest.skip(str(missing))
    failed = [f"{result.name}: {result.detail}" for result in results if not result.passed]
    assert results and not failed, "\n".join(failed)


@pytest.mark.parametrize("form", ["unistream", "bistream"])
@pytest.mark.parametrize("pace", ["ratio", "words"])
def test_every_form_of_the_cosyvoice2_layout(form, pace):
    cls = registry().get("layout", "cosyvoice2")
    results = check("layout", "cosyvoice2", cls.Config(form=form, pace=pace))
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_transformer_with_any_number_of_groups(kv_heads):
    cls = registry().get("backbone", "transformer")
    config = cls.Config(
        width=32, layers=1, heads=4, kv_heads=kv_heads, ffn_width=48, qkv_bias=False
    )
    results = check("backbone", "transformer", config)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []
