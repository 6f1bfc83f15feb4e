"""Rules of the house that can be read from the source: size, safety, explanations."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("core", "plugins", "adapters", "kernels")
FILES = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST = 400
"""Lines of a file that one sitting takes in; a whole backbone fits."""
LONGER_FOR_A_REASON: dict[str, str] = {}
"""File -> why it is longer."""
HOSTS = (
    "py" + "pi.org",
    "python" + "hosted",
    "npm" + "js.",
    "crates" + ".io",
    "conda." + "anaconda",
)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES + TESTS, ids=name_of)
def test_no_file_is_longer_than_one_sitting(path):
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST or LONGER_FOR_A_REASON.get(name_of(path)), f"{lines} lines"


def test_the_exceptions_are_still_needed():
    for name in LONGER_FOR_A_REASON:
        assert len((ROOT / name).read_text().splitlines()) > LONGEST, name


def unsafe(source):
    """Calls and imports that can run what a file contains."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if {name.split(".")[0] for name in names} & {"pickle", "dill", "joblib", "cloudpickle"}:
            found.append(f"line {node.lineno}: imports {names[0]}")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("eval", "exec"):
            found.append(f"line {node.lineno}: {called}")
        safe = any(
            k.arg == "weights_only" and getattr(k.value, "value", None) is True
            for k in node.keywords
        )
        if called == "torch.load" and not safe:
            found.append(f"line {node.lineno}: torch.load without weights_only=True")
        pickled = any(
            k.arg == "allow_pickle" and getattr(k.value, "value", 1) for k in node.keywords
        )
        if pickled:
            found.append(f"line {node.lineno}: allow_pickle")
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_that_is_read_can_run_code(path):
    assert unsafe(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "eval('1')",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_unsafe_reading_is_seen(source):
    assert unsafe(source)


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_file_names_the_host_of_a_registry():
    """Where packages come from is the choice of the machine they are installed on."""
    wrong = []
    for path in tracked():
        if path.suffix in (".safetensors", ".wav", ".flac", ".parquet") or not path.is_file():
            continue
        text = path.read_text(errors="ignore").lower()
        wrong += [f"{name_of(path)}: {host}" for host in HOSTS if host in text]
    assert wrong == []


ATOMIC = "core/contract/atomic.py"
"""Where writing a file aside and renaming it is defined; kernels, which import nothing of core,
write their compiled libraries themselves."""


def renames(source):
    """Lines that move a file over another: ``os.replace``, ``os.rename``, ``Path.replace`` and so
    on. ``str.replace`` and ``dataclasses.replace`` have more arguments than one."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called, name = ast.unparse(node.func), node.func.attr
        of_path = len(node.args) == 1 and not node.keywords and name in ("replace", "rename")
        if of_path or called in ("os.replace", "os.rename", "shutil.move", "tempfile.mkstemp"):
            found.append(f"line {node.lineno}: {called}")
    return found


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p) != ATOMIC], ids=name_of)
def test_files_are_written_aside_in_one_place(path):
    assert name_of(path).startswith("kernels/") or renames(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    ["aside.replace(path)", "aside.rename(path)", "os.replace(a, b)", "shutil.move(a, b)"],
)
def test_renaming_by_hand_is_seen(source):
    assert renames(source)
    assert renames((ROOT / ATOMIC).read_text())
    assert not renames("text.replace('a', 'b'); dataclasses.replace(x, y=1); replace(x)")


def public_definitions(tree):
    """(qualified name, node) of every public class, method and function of a module."""

    def visit(node, prefix):
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef):
                continue
            if child.name.startswith("_"):
                continue
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}{child.name}.")

    return visit(tree, "")


INHERITED = {"forward", "main", "Config"} | {
    "encode", "decode", "embed", "push", "finish", "start", "next", "train",
    "speak", "read", "init_state", "step_", "state_bytes", "count_parameters", "flops_per_position",
    "parameter_groups", "sample", "space", "small_config",
    "wishbone_register", "wishbone_doctor", "error",
}  # fmt: skip
"""Named by a contract (``error`` by that of argparse), which says what they do."""


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_everything_public_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    empty = not tree.body and path.name == "__init__.py"
    assert empty or ast.get_docstring(tree), "the module has no docstring"
    silent = [
        name
        for name, node in public_definitions(tree)
        if not ast.get_docstring(node) and node.name not in INHERITED
    ]
    assert silent == []


SHAPED = re.compile(r"\b([a-z_]\w*) \[[A-Z][A-Z0-9, ]*\]")


def undefined_arguments(tree):
    """Names that a docstring gives a shape as an input (left of ``->``) but no argument has."""
    wrong = []
    for name, node in public_definitions(tree):
        text = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef) or "->" not in text.split("\n")[0]:
            continue
        arguments = node.args
        known = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        names = {argument.arg for argument in known}
        left = text.split("\n")[0].split("->")[0]
        wrong += [f"{name}: {word}" for word in SHAPED.findall(left) if word not in names]
    return wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_documented_arguments_exist(path):
    assert undefined_arguments(ast.parse(path.read_text())) == []


def test_a_documented_argument_that_is_gone_is_seen():
    source = 'def f(x):\n    """x [B, T], mask [B, T] -> y [B, T]."""'
    assert undefined_arguments(ast.parse(source)) == ["f: mask"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_misspelt_argument_fails(path):
    """``**kwargs`` in a public signature would swallow it."""
    definitions = public_definitions(ast.parse(path.read_text()))
    loose = [n for n, node in definitions if getattr(getattr(node, "args", None), "kwarg", None)]
    assert loose == []


MARKS = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]))


@pytest.mark.parametrize("path", FILES + TESTS, ids=name_of)
def test_nothing_is_left_for_later(path):
    assert not MARKS.search(path.read_text())


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"], ids=name_of)
def test_every_field_of_a_config_says_what_it_is(path):
    """The sentence under a field is its help: ``wishbone plugins info`` prints it."""
    silent = []
    for name, node in public_definitions(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef) or not node.name.endswith("Config"):
            continue
        if "dataclass" not in " ".join(ast.unparse(d) for d in node.decorator_list):
            continue
        for field, below in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and not isinstance(below, ast.Expr):
                silent.append(f"{name}.{ast.unparse(field.target)}")
    assert silent == []
