"""Token data of any size in seconds, and the start of a training on it, in a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pyarrow
from tiny_corpus import ABOUT, SPACE

from wishbone.core.data.tokens import METADATA, write_table

ROWS = 62_500
"""Utterances of a file."""
WORD, FRAMES = 5, 10
"""Ids and codes of a word; the last id is the space behind it."""


def write_made_up(folder, codes, seed=0):
    """About so many codes in utterances of 7 to 23 words: 3 to 9 s each -> their number."""
    total = max(1, codes // (15 * FRAMES))
    for number, begin in enumerate(range(0, total, ROWS)):
        random = np.random.default_rng((seed, number))
        count = min(ROWS, total - begin)
        words = random.integers(7, 24, count)
        ids = random.integers(1, 70, (int(words.sum()), WORD), np.int32)
        ids[:, -1] = SPACE
        spoken = random.integers(0, 6561, int(words.sum()) * FRAMES, np.int32)
        starts = np.concatenate([[0], np.cumsum(words)])
        place = np.arange(starts[-1]) - np.repeat(starts[:-1], words) + 1
        names = pyarrow.array(np.arange(begin, begin + count)).cast("string")

        def lists(values, per_word, starts=starts):
            offsets = pyarrow.array((starts * per_word).astype(np.int32))
            return pyarrow.ListArray.from_arrays(offsets, pyarrow.array(values))

        columns = {
            "id": pyarrow.compute.binary_join_element_wise("u", names, ""),
            "text": pyarrow.compute.binary_join_element_wise("sentence", names, " "),
            "text_ids": lists(ids.ravel(), WORD),
            "codes": lists(spoken, FRAMES),
            "word_ends": lists((place * FRAMES).astype(np.int32), 1),
            "seconds": pyarrow.array((words * FRAMES / 25).astype(np.float32)),
            "speaker": pyarrow.array([""] * count),
        }
        table = pyarrow.table(columns).replace_schema_metadata({METADATA: json.dumps(ABOUT)})
        write_table(folder / f"{number:06d}.parquet", table)
    return total


CHILD = """
import json, os, sys, time
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
born = float(fields[19]) / os.sysconf("SC_CLK_TCK")
from wishbone.core.train import run
from wishbone.core.train.loop import Trainer

def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) / 2**20 for name in ("VmHWM", "RssAnon", "RssFile")]

step, times, start = Trainer._train_step, [], []
def timed(self):
    if not start:
        now = float(open("/proc/uptime").read().split()[0])
        start.extend([now - born, time.process_time(), *memory()])
    rows, before = self.plan.rows(self.step)[1], time.perf_counter()
    step(self)
    times.append((time.perf_counter() - before) / self.lengths[rows].sum() * 1e6)
Trainer._train_step = timed
code = run.run(sys.argv[1], sys.argv[2:])
print("MEASURED", json.dumps([code, start, memory(), sorted(times)[len(times) // 2]]))
"""


def start_training(recipe, *words):
    """Train in a process and measure it.

    Returns the seconds from its birth to its first step and those of the processor; GB at the most,
    of its own and of mapped files, then and in the end; microseconds of a step for each position.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(recipe), *words], capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    assert lines, done.stderr[-3000:]
    code, start, end, step = json.loads(lines[0].removeprefix("MEASURED "))
    assert code == 0
    return start[:2], start[2:], end, step
