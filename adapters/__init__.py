"""One file per sequence layout: what goes at which position, and nothing else."""

from __future__ import annotations

from wishbone.core.registry.loader import hookimpl
from wishbone.core.registry.registry import Registry

if __name__ != "wishbone.adapters":
    raise ImportError(
        f"import this as wishbone.adapters, not {__name__}: run 'pip install -e .' first"
    )

WISHBONE_API = "1.1"


@hookimpl
def wishbone_register(registry: Registry) -> None:
    """Every layout, by key."""
    registry.add(
        "layout",
        "cosyvoice2",
        "wishbone.adapters.cosyvoice2:CosyVoice2",
        "text and speech in one sequence, all text first or interleaved",
    )
    registry.add(
        "layout",
        "cosyvoice3",
        "wishbone.adapters.cosyvoice3:CosyVoice3",
        "CosyVoice3's: as cosyvoice2, with marks in the speech table and a prefix",
    )
    registry.add(
        "layout",
        "spark",
        "wishbone.adapters.spark:Spark",
        "codes of the voice, then codes in time: ReSpark and Spark-TTS",
    )
    registry.add(
        "layout",
        "xy",
        "wishbone.adapters.xy:XY",
        "several codebooks, each one frame behind the last: RWKVTTS's XY",
    )
