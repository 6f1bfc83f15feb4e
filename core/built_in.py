"""The parts that core itself brings: commands and what they offer, by the door of every plug-in."""

from __future__ import annotations

from wishbone.core.plugin import hookimpl
from wishbone.core.registry import Registry

WISHBONE_API = "1.1"


@hookimpl
def wishbone_register(registry: Registry) -> None:
    """Every part, by kind and key."""
    for kind, key, target, summary in PARTS:
        registry.add(kind, key, f"wishbone.core.{target}", summary)


PARTS = (
    ("command", "say", "serve.say:main", "Speak a text into a file."),
    ("command", "text", "serve.text:main", "Continue a text with a language model."),
    ("command", "ab", "evaluate.ab:main",
     "Compare systems that differ in one part, and write a report."),
    ("command", "train", "train.command:main", "Train a model from a YAML file, or resume it."),
    ("command", "data", "data.command:main", "Make audio with a teacher, and tokens from audio."),
    ("command", "evaluate", "evaluate.command:main", "Measure a system or a codec."),
    ("command", "plugins", "plugin_command:main", "List, check and write plug-ins."),
    ("command", "bench", "bench.command:main", "Measure speed and memory beside other projects."),
    ("command", "match", "match:main", "Find the size at which two backbones cost the same."),
    ("command", "convert", "convert:main", "Bring weights in from other projects, and out."),
    ("command", "doctor", "doctor:main",
     "Say what works on this machine, and why the rest does not."),
    ("objective", "codes", "train.objectives:Codes",
     "cross entropy of the next code, the ordinary one"),
    ("corpus", "cosyvoice", "data.readers:CosyVoice", "CosyVoice's Parquet"),
    ("corpus", "rwkvtts", "data.readers:RWKVTTS", "RWKVTTS's JSONL, with prompts"),
    ("corpus", "respark", "data.readers:ReSpark", "ReSpark's JSONL, with codes of the voice"),
    ("corpus", "xy", "data.readers:XY", "RWKVTTS's JSONL of several codebooks"),
    ("contender", "memory", "bench.memory:Memory", "how fast this machine's memory is read"),
    ("contender", "wishbone", "bench.models:Wishbone", "a backbone and a head of Wishbone"),
    ("contender", "rwkv", "bench.peers:Rwkv", "the package rwkv (extra: bench)"),
    ("contender", "llama.cpp", "bench.llama:LlamaCpp",
     "llama.cpp on the same weights (extra: bench)"),
    ("contender", "system", "bench.speech:SpeakingSystem", "a whole system, from text to sound"),
)  # fmt: skip
