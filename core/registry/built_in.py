"""Parts of core itself, registered as those of any plug-in: commands, contenders, an objective."""

from __future__ import annotations

from wishbone.core.registry.loader import hookimpl
from wishbone.core.registry.registry import Registry

WISHBONE_API = "1.1"


@hookimpl
def wishbone_register(registry: Registry) -> None:
    """Register every part of ``PARTS``."""
    for kind, key, target, summary in PARTS:
        registry.add(kind, key, f"wishbone.core.{target}", summary)


PARTS = (
    # in the order in which somebody new needs them, which is that of 'wishbone --help'
    ("command", "say", "cli.speech.say:main", "Speak a text into a file."),
    ("command", "doctor", "cli.doctor:main",
     "Show what works on this machine, and why the rest does not."),
    ("command", "ab", "cli.ab:main",
     "Compare systems that differ in one part, and write a report."),
    ("command", "train", "cli.train:main", "Train a model by a recipe, or go on with a run."),
    ("command", "evaluate", "cli.evaluation.evaluate:main",
     "Judge a system's speech, a codec or recordings."),
    ("command", "listen", "cli.evaluation.listen:main",
     "Let people hear systems and decide: make, serve, analyze, plan."),
    ("command", "serve", "cli.speech.serve:main",
     "Serve systems to programs and, in a browser, to people."),
    ("command", "synth", "cli.speech.synth:main",
     "Speak a long list, in parts, by many processes."),
    ("command", "data", "cli.data:main",
     "Make training data: sentences to audio, audio to tokens."),
    ("command", "plugins", "cli.plugins:main", "List and check parts, and write your own."),
    ("command", "match", "cli.match:main", "Find the size at which two backbones cost the same."),
    ("command", "list", "cli.look.list:main", "List the recipes, systems and experiments here."),
    ("command", "runs", "cli.look.runs:main", "Show trainings: steps, losses, exports."),
    ("command", "diff", "cli.look.diff:main", "Show the keys in which two systems differ."),
    ("command", "bench", "cli.bench:main", "Measure speed and memory beside other projects."),
    ("command", "convert", "cli.convert:main", "Bring weights in from other projects, and out."),
    ("command", "text", "cli.speech.text:main", "Continue a text with a language model."),
    ("objective", "codes", "train.objectives:Codes",
     "cross entropy of the next code, the ordinary one"),
    ("contender", "memory", "bench.built_in.memory:Memory",
     "how fast this machine's memory is read"),
    ("contender", "wishbone", "bench.built_in.models:Wishbone",
     "a backbone and a head of Wishbone"),
    ("contender", "system", "bench.built_in.speaking_system:SpeakingSystem",
     "a whole system, from text to sound"),
)  # fmt: skip
