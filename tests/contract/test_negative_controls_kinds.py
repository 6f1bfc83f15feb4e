"""Parts of every kind that is no slot of a system, each broken in one way."""

from dataclasses import dataclass

import pytest
import torch
from controls import failed

from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.contract.extensions.contender import Contender, Job
from wishbone.core.contract.extensions.converter import Converted, Converter
from wishbone.core.contract.extensions.corpus import CorpusFormat, Unusable, Utterance
from wishbone.core.contract.extensions.objective import Objective
from wishbone.core.contract.extensions.release import Found, ReleaseReader
from wishbone.core.contract.extensions.teacher import Spoken, Teacher
from wishbone.core.testing import check_class
from wishbone.core.weights.tensor_files import read_tensors, write_tensors


@dataclass
class Empty:
    """Nothing to choose."""


def good_command(argv):
    if "--help" in argv:
        print("usage: it")
        return 0
    raise UsageError("no such option", "it", "leave it out")


def silent_command(argv):
    return good_command(argv) if "--help" not in argv else 0


def deaf_command(argv):
    print("usage: it")
    return 0


def crowded_command(argv, more):
    return 0


class GoodConverter(Converter):
    slot = "head"

    def read(self, source):
        if not (source / "h.safetensors").is_file():
            raise CheckpointError("not mine", str(source), "name another")
        tensors = read_tensors(source / "h.safetensors")
        return Converted("head", {"name": "linear"}, tensors, account={"w": "w"})

    def write(self, tensors, config, to):
        to.mkdir()
        write_tensors(to / "h.safetensors", tensors)

    def write_example(self, to):
        self.write({"w": torch.randn(3, 2)}, {}, to)
        return True


class LossyConverter(GoodConverter):
    def write(self, tensors, config, to):
        super().write({name: t.half().float() for name, t in tensors.items()}, config, to)

    def write_example(self, to):
        GoodConverter().write({"w": torch.randn(3, 2)}, {}, to)
        return True


class HastyConverter(GoodConverter):
    def read(self, source):
        return super().read(source) if source.is_dir() else {}["lost"]


class GreedyConverter(GoodConverter):
    def read(self, source):
        return Converted("head", {"name": "linear"}, {"w": torch.ones(1)}, account={"w": "w"})


class SlotlessConverter(GoodConverter):
    slot = "hat"


class StrayConverter(GoodConverter):
    def read(self, source):
        converted = super().read(source)
        converted.config = {"name": "lineal"}
        return converted


class GoodRelease(ReleaseReader):
    def holds(self, folder):
        return (folder / "mine").is_file()

    def language_model(self, folder, model):
        return Found(read_tensors(folder / "w.safetensors"))

    def write_example(self, to, model):
        (to / "mine").write_text("")
        write_tensors(to / "w.safetensors", model)
        return True


class GreedyRelease(GoodRelease):
    def holds(self, folder):
        return True


class NervousRelease(GoodRelease):
    def holds(self, folder):
        return (folder / "readme.txt").read_text() == "mine"


class LossyRelease(GoodRelease):
    def language_model(self, folder, model):
        tensors = super().language_model(folder, model).tensors
        return Found({name: t + 1 for name, t in tensors.items()})


class PoorRelease(GoodRelease):
    def language_model(self, folder, model):
        tensors = super().language_model(folder, model).tensors
        return Found(dict(list(tensors.items())[1:]))


class GoodContender(Contender):
    Config = Empty

    @classmethod
    def small_job(cls):
        return Job({}), "case"

    def load(self):
        return {"engine": "toy"}

    def run(self, case, count):
        return {"seconds": [0.1] * count}


class LazyContender(GoodContender):
    def run(self, case, count):
        return {"seconds": [0.1]}


class EndlessContender(GoodContender):
    def run(self, case, count):
        return {"seconds": [float("inf")] * count}


class UnsayableContender(GoodContender):
    def load(self):
        return {"engine": torch.ones(1)}


class ChattyContender(GoodContender):
    @classmethod
    def missing(cls, config, job):
        return None


class GoodCorpus(CorpusFormat):
    name, columns = "good", ("codes",)

    def utterances(self, row, name):
        text, codes = row.get("text"), row.get("codes")
        if not isinstance(text, str) or not text.strip() or not isinstance(codes, list):
            raise Unusable("without text or codes")
        if not codes or any(type(code) is not int for code in codes):
            raise Unusable("without codes")
        yield Utterance(self, name, text, [(code,) for code in codes])

    def example(self):
        return {"text": "hello", "codes": [1, 2, 3]}


class TrustingCorpus(GoodCorpus):
    def utterances(self, row, name):
        yield Utterance(self, name, row["text"], [(code,) for code in row["codes"]])


class EmptyCorpus(GoodCorpus):
    def utterances(self, row, name):
        return iter(())


class BlindCorpus(GoodCorpus):
    columns = ()


class BackwardsCorpus(GoodCorpus):
    seconds = (9.0, 1.0)


class GoodTeacher(Teacher):
    Config = Empty

    def __init__(self, config):
        self.config = config

    def speak(self, words):
        return Spoken(0.1 * torch.ones(800), 800, [0.4, 0.9])

    def read(self, text):
        return Spoken(0.1 * torch.ones(800), 800)


class MuteTeacher(GoodTeacher):
    def read(self, text):
        return Spoken(torch.zeros(800), 800)


class LoudTeacher(GoodTeacher):
    def speak(self, words):
        return Spoken(3 * torch.ones(800), 800)


class ConfusedTeacher(GoodTeacher):
    def speak(self, words):
        return Spoken(0.1 * torch.ones(800), 800, [0.9, 0.4])


class ForgetfulTeacher(GoodTeacher):
    def speak(self, words):
        return Spoken(0.1 * torch.ones(800), 800, [0.4])


class GoodObjective(Objective):
    Config = Empty

    def forward(self, table, ids, targets, mask):
        return self.model.loss(table, ids, targets, mask)


class MeanObjective(GoodObjective):
    def forward(self, table, ids, targets, mask):
        total, count = super().forward(table, ids, targets, mask)
        return total, count // 2


class PaddedObjective(GoodObjective):
    def forward(self, table, ids, targets, mask):
        total, count = super().forward(table, ids, targets, mask)
        return total + 0.1 * targets.shape[1] * (count > 0), count


class DetachedObjective(GoodObjective):
    def forward(self, table, ids, targets, mask):
        total, count = super().forward(table, ids, targets, mask)
        return (total if count else total.detach()), count


class BackwardsObjective(GoodObjective):
    def forward(self, table, ids, targets, mask):
        total, count = super().forward(table, ids, targets, mask)
        return 2 * total.detach() - total, count


GOOD = {
    "command": good_command,
    "converter": GoodConverter,
    "release": GoodRelease,
    "contender": GoodContender,
    "corpus": GoodCorpus,
    "teacher": GoodTeacher,
    "objective": GoodObjective,
}
BROKEN = [
    ("command", silent_command, "helps"),
    ("command", deaf_command, "refuses"),
    ("command", crowded_command, "signature"),
    ("command", GoodContender, "signature"),
    ("converter", LossyConverter, "round_trip"),
    ("converter", HastyConverter, "refuses"),
    ("converter", GreedyConverter, "refuses"),
    ("converter", SlotlessConverter, "contract"),
    ("converter", StrayConverter, "example"),
    ("release", GreedyRelease, "strange_folders"),
    ("release", NervousRelease, "strange_folders"),
    ("release", LossyRelease, "example"),
    ("release", PoorRelease, "example"),
    ("contender", LazyContender, "runs"),
    ("contender", EndlessContender, "runs"),
    ("contender", UnsayableContender, "runs"),
    ("contender", ChattyContender, "questions"),
    ("corpus", TrustingCorpus, "odd_rows"),
    ("corpus", EmptyCorpus, "example"),
    ("corpus", BlindCorpus, "contract"),
    ("corpus", BackwardsCorpus, "contract"),
    ("teacher", MuteTeacher, "reads"),
    ("teacher", LoudTeacher, "speaks"),
    ("teacher", ConfusedTeacher, "speaks"),
    ("teacher", ForgetfulTeacher, "speaks"),
    ("objective", MeanObjective, "sum_and_count"),
    ("objective", PaddedObjective, "padding"),
    ("objective", DetachedObjective, "no_targets"),
    ("objective", BackwardsObjective, "learns"),
]


@pytest.mark.parametrize("kind", GOOD)
def test_the_plain_part_keeps_every_contract(kind):
    results = check_class(kind, GOOD[kind])
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []
    # nothing but the import is skipped: these parts promise everything
    assert {r.name for r in results if r.skipped} <= {"light_import"}


@pytest.mark.parametrize(("kind", "part", "name"), BROKEN, ids=lambda x: getattr(x, "__name__", x))
def test_a_broken_part_is_noticed(kind, part, name):
    assert name in failed(kind, part)
