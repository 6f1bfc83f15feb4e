"""Plant faults in a part of the code, one at a time, and count those its tests catch.

::

    pip install -e ".[mutation]"
    python tests/mutation/mutants.py speak              # a name of PARTS, or several
    python tests/mutation/mutants.py speak --count 200 --seed 2

A mutant is one operator of cosmic-ray at one place: ``<`` for ``<=``, ``and`` for ``or``, 5 for 4.
Places are drawn with a seed, at each of them one operator. A copy of the repository is changed,
never the repository; every test that runs the changed line, the fastest first, is asked until one
fails or ``MOST_SECONDS`` are used. Annotations and docstrings are left alone. The result is a line
of JSON for each mutant; survivors are printed as differences.
"""

import argparse
import ast
import contextlib
import difflib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from parts import ELSEWHERE, PARTS

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("core", "plugins", "adapters", "kernels", "configs", "tests", "pyproject.toml")
MOST_SECONDS = 30
"""Seconds of tests, as measured without a fault, that one mutant is given."""
QUICK_SECONDS = 10
"""Seconds for the other tests of the same files, where a line runs when its module is imported."""
SLACK, FACTOR = 60, 6
"""Seconds, and times its tests' own, after which a mutant hangs: then it counts as caught."""
PRELOADED = (
    "torch", "torch._dynamo", "torchaudio", "scipy.stats", "pandas", "pyarrow.parquet", "pytest",
    "soundfile", "matplotlib.pyplot", "jinja2", "rich.console", "omegaconf", "pluggy", "gruut",
    "safetensors.torch", "transformers", "fastapi.testclient", "uvicorn", "httpx", "openai",
    "jiwer", "whisper_normalizer.english", "faster_whisper", "librosa", "torch.utils.tensorboard",
)  # fmt: skip
"""What tests import and no mutant changes: once, for all of them."""
ARITHMETIC = "Add Sub Mul Div FloorDiv Mod Pow".split()


@dataclass
class Mutant:
    """One fault: where it is, and the code with it."""

    path: str
    line: int
    operator: str
    code: str


def places(source):
    """Where operators of cosmic-ray fit a module: (line, column) -> [(operator, its number)]."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    found = defaultdict(list)
    nodes = list(ast_nodes(get_ast(source)))
    for name in sorted(filter(is_tried, operator_names())):
        operator = get_operator(name)()
        spots = [spot for node in nodes for spot in operator.mutation_positions(node)]
        for number, (begin, _) in enumerate(spots):
            found[begin].append((name, number))
    return found


def planted(path, source, place, choices, chance):
    """One mutant at a place; None where every operator leaves the meaning as it was."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    for name, number in chance.sample(choices, len(choices)):
        code = mutate_code(source, get_operator(name)(), number)
        try:
            if code is not None and meaning(code) != meaning(source):
                return Mutant(path, place[0], name.removeprefix("core/"), code)
        except SyntaxError:
            continue
    return None


def is_tried(name):
    """Tell if an operator is worth a run: bits of numbers are no likely mistake."""
    if "Variable" in name or "RemoveDecorator" in name:
        return False
    if "BinaryOperator" in name:
        before, after = name.split("_")[1:]
        return before in ARITHMETIC and after in ARITHMETIC
    return "Invert" not in name and "UAdd" not in name


def meaning(source):
    """The code to compare: without places, annotations, kinds of parameters, and ``strict=``.

    ``zip(..., strict=True)`` is a check of our own, which no right code runs into.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.posonlyargs, node.kwonlyargs = [], []
            node.defaults = [*node.defaults, *node.kw_defaults]
            node.kw_defaults = []
        if isinstance(node, ast.keyword) and node.arg == "strict":
            node.value = ast.Constant(0)
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
    return ast.dump(tree)


def sampled(root, folders, count, seed):
    """Draw ``count`` places of the code of ``folders``, and one mutant at each."""
    every, sources = [], {}
    for folder in folders:
        path = root / folder
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = str(file.relative_to(root))
            sources[name] = file.read_text(encoding="utf-8")
            every += [(name, *each) for each in sorted(places(sources[name]).items())]
    chance = random.Random(seed)
    drawn = []
    for name, place, choices in chance.sample(every, len(every)):
        if len(drawn) < count and (mutant := planted(name, sources[name], place, choices, chance)):
            drawn.append(mutant)
    return drawn


def statement(source, line):
    """The lines of the innermost statement that holds a line; of a block, those of its head."""
    first, last = line, line
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno:
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            if line <= max(end, node.lineno) and node.lineno >= first - 200:
                first, last = node.lineno, max(end, node.lineno)
    return range(first, last + 1)


class Watcher:
    """A plug-in of pytest: the lines that each test runs, and its seconds."""

    def __init__(self, coverage):
        self.coverage, self.seconds, self.failed = coverage, defaultdict(float), []

    def pytest_runtest_setup(self, item):
        self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)


def measure(folder, folders, tests, out):
    """Run the tests without a fault; write which of them run which line, and their seconds."""
    import coverage
    import pytest

    watched = [str(folder / each) for each in folders]
    watched = [f"{each}/*" if Path(each).is_dir() else each for each in watched]
    tracer = coverage.Coverage(data_file=None, include=watched, messages=False)
    watcher = Watcher(tracer)
    tracer.start()
    # all of them: a test that fails here, on a busy machine, is left out and ends nothing
    pytest.main([word for word in arguments(tests) if word != "-x"], plugins=[watcher])
    tracer.stop()
    data = tracer.get_data()
    lines = {
        os.path.relpath(os.path.realpath(file), folder): {
            line: [context for context in contexts if context]
            for line, contexts in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    told = {"lines": lines, "seconds": watcher.seconds, "failed": watcher.failed}
    out.write_text(json.dumps(told))


def arguments(tests):
    """What pytest is told: one process, stop at the first failure, no cache."""
    return ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--no-header", "--tb=no", *tests]


def ask(tests, out):
    """Run tests in this process; write True where all passed."""
    import pytest

    code = pytest.main(arguments(tests))
    out.write_text(str(code in (0, 5)))


def forked(function, *given, limit):
    """Run a function in a fork, silently; False where it ran past ``limit`` seconds."""
    process = multiprocessing.get_context("fork").Process(target=_silently, args=(function, given))
    process.start()
    try:
        process.join(limit)
    finally:
        hangs = process.is_alive()
        if hangs:
            process.kill()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # servers that its tests began
            process.join()
    return not hangs


def _silently(function, given):
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    function(*given)
    os._exit(0)


def tests_of(mutant, source, known):
    """The tests that run the changed line, the fastest first, for ``MOST_SECONDS``.

    Of a line that runs when the module is imported, whoever uses the module may notice: those that
    run any line of it, and the others of their files, because what a dataclass makes of its fields
    is no line of anybody's.
    """
    lines = known["lines"].get(mutant.path, {})
    names = {n for line in statement(source, mutant.line) for n in lines.get(str(line), [])}
    beside = set()
    if not names and any(str(line) in lines for line in statement(source, mutant.line)):
        names = {name for each in lines.values() for name in each}
        files = {name.partition("::")[0] for name in names}
        beside = {name for name in known["seconds"] if name.partition("::")[0] in files} - names
    for folder, file in ELSEWHERE.items():
        if mutant.path.startswith(folder):
            names |= {name for name in known["seconds"] if name.startswith(file)}
    return fastest(names, known, MOST_SECONDS) + fastest(beside - names, known, QUICK_SECONDS)


def fastest(names, known, most):
    """As many of the tests that pass without a fault as take ``most`` seconds, one at least."""
    chosen, spent = [], 0.0
    for name in sorted(names - set(known["failed"]), key=lambda name: known["seconds"][name]):
        spent += known["seconds"][name]
        if chosen and spent > most:
            break
        chosen.append(name)
    return chosen


def _place(mutant):
    return mutant.path, mutant.line, mutant.operator


def survivors(file):
    """The places of the mutants that survived an earlier run."""
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {(row["path"], row["line"], row["operator"]) for row in rows if row["survived"]}


def try_part(name, count, seed, out, work, again=()):
    """Try one part; write a line for each mutant to ``out`` -> (caught, all)."""
    folders, tests = PARTS[name]
    known_file, passed = work / f"{name}.json", work / "passed"
    if not known_file.exists():
        files = [f"tests/{test}" for test in tests.split()]
        forked(measure, work, folders, files, known_file, limit=3600)
    known = json.loads(known_file.read_text())
    print(f"{name}: {len(known['seconds'])} tests, {len(known['failed'])} of them fail", flush=True)
    if len(known["failed"]) * 2 > len(known["seconds"]):
        sys.exit(f"{name}: most tests fail without a fault, so they tell nothing about faults")
    caught = 0
    drawn = [m for m in sampled(work, folders, count, seed) if not again or _place(m) in again]
    for number, mutant in enumerate(drawn, 1):
        file = work / mutant.path
        source = file.read_text(encoding="utf-8")
        asked, begin = tests_of(mutant, source, known), time.time()
        passed.unlink(missing_ok=True)
        if asked:
            file.write_text(mutant.code, encoding="utf-8")
            seconds = sum(known["seconds"][test] for test in asked)
            forked(ask, asked, passed, limit=SLACK + FACTOR * seconds)
            file.write_text(source, encoding="utf-8")
        survived = not asked or passed.exists() and passed.read_text() == "True"
        caught += not survived
        difference = "\n".join(
            difflib.unified_diff(
                source.split("\n"), mutant.code.split("\n"), mutant.path, mutant.path,
                lineterm="", n=1,
            )
        )  # fmt: skip
        row = {k: v for k, v in asdict(mutant).items() if k != "code"}
        row |= {"part": name, "survived": survived, "tests": len(asked), "difference": difference}
        with out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        said = "SURVIVED" if survived else "caught"
        took = f"{time.time() - begin:.0f} s, {len(asked)} tests"
        print(
            f"{number}/{len(drawn)} {said} {mutant.path}:{mutant.line} {mutant.operator} ({took})"
        )
        if survived:
            print(difference)
        sys.stdout.flush()
    return caught, len(drawn)


def main(argv=None):
    """Try the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="+", choices=list(PARTS))
    parser.add_argument("--count", type=int, default=40, help="places a part (default: 40)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"), help="result")
    parser.add_argument("--again", type=Path, help="try the survivors of this result alone")
    options = parser.parse_args(argv)
    again = survivors(options.again) if options.again else ()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing is left running
    out = options.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, work / name)
        sys.path.insert(0, str(work / "tests" / "house"))
        from link_tree import make_link_tree

        tree = str(make_link_tree(work))
        # ours, and that of the processes that tests begin: the copy, not the installed package
        sys.path.insert(0, tree)
        os.environ |= {"PYTHONPATH": tree, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        sys.dont_write_bytecode = True  # this process has read its environment already
        os.chdir(work)
        for module in PRELOADED:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        for name in options.part:
            caught, every = try_part(name, options.count, options.seed, out, work, again)
            print(f"{name}: {caught} of {every} caught, {caught / every:.0%}", flush=True)


if __name__ == "__main__":
    main()
