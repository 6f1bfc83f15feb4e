"""The bundled systems, loaded as anybody loads them, speak in several threads at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import wishbone
from wishbone.core.contract.errors import UsageError
from wishbone.kernels.linear import compiler_missing

TEXTS = ("Good morning.", "Who goes there?", "A short line.", "No.", "It is late.", "Come in.")


@pytest.mark.parametrize("engine", ["auto", "eager", "native:int8"])
@pytest.mark.parametrize("name", ["quickstart-rwkv7", "quickstart-transformer"])
def test_threads_say_what_one_after_another_says(name, engine):
    if engine == "native:int8" and compiler_missing():
        pytest.skip(f"no compiler: {compiler_missing()}")
    system = wishbone.load(name, engine=engine)
    used = "eager" if engine == "eager" or compiler_missing() else "native"
    assert system.model.engine == (used if engine != "native:int8" else "native int8")
    alone = [system.say(text, seed=3).samples for text in TEXTS]
    with ThreadPoolExecutor(len(TEXTS)) as pool:
        together = list(pool.map(lambda text: system.say(text, seed=3).samples, TEXTS))
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


def test_an_unknown_engine_is_refused_before_anything_is_read():
    with pytest.raises(UsageError, match="'fast' is not an engine"):
        wishbone.load("no-such-system", engine="fast")
