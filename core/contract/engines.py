"""Names of engines, which compute a decoding step; ``accelerate`` of a part takes them."""

from __future__ import annotations

from wishbone.core.contract.errors import CapabilityError, UsageError

ENGINES = ("auto", "eager", "native", "graph")
"""The fastest that every machine like this one has; plain PyTorch; a C++ extension for the CPU; a
CUDA graph."""

RETIRED = {"compiled": "native"}
"""Names that earlier versions took -> the engine that took their place."""

WEIGHTS = ("float32", "bfloat16", "int8")
"""Types in which a step reads its matrices; "float32" means as they are, int8 has a scale a row."""


def parse_engine(text: str, where: str = "--engine") -> tuple[str, str]:
    """Read "NAME" or "NAME:WEIGHTS" -> both.

    Raises ``UsageError`` for unknown names, ``CapabilityError`` for those of earlier versions.
    """
    engine, _, weights = text.partition(":")
    weights = weights or "float32"
    refuse_retired(engine, where)
    if engine not in ENGINES or weights not in WEIGHTS:
        raise UsageError(
            f"'{text}' is not an engine.",
            where,
            f"Write NAME or NAME:WEIGHTS. Names: {', '.join(ENGINES)}; "
            f"weights: {', '.join(WEIGHTS)}.",
        )
    return engine, weights


def refuse_retired(engine: str, where: str) -> None:
    """Raise ``CapabilityError`` for an engine of earlier versions, naming the one to use."""
    if engine in RETIRED:
        raise CapabilityError(
            f"There is no engine '{engine}' any more: '{RETIRED[engine]}' took its place.",
            where,
            f"Use '{RETIRED[engine]}', which reads the same kinds of weights.",
        )


def eager_only(part: str, engine: str, weights: str) -> str:
    """Return "eager", for a part without engines of its own; ``part`` is its class's name.

    Raises ``CapabilityError`` for anything but plain PyTorch on the weights as they are.
    """
    if engine in ("auto", "eager") and weights == "float32":
        return "eager"
    raise unavailable(part, engine, weights, "it only runs as plain PyTorch")


def unavailable(part: str, engine: str, weights: str, reason: str) -> CapabilityError:
    """Make the error for an engine that cannot run; ``reason`` completes the first sentence."""
    choices = f"Engines: {', '.join(ENGINES)}; weights: {', '.join(WEIGHTS)}."
    return CapabilityError(
        f"{part} cannot use the engine '{engine}' with {weights} weights here: {reason}.",
        f"accelerate('{engine}', '{weights}')",
        f"Use 'auto', or 'eager' with float32 weights. {choices}",
    )
