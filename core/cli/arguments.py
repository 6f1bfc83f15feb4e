"""A command's options as a dataclass: one field an option, which makes the parser and the help.

    @dataclass(frozen=True, kw_only=True)
    class GreetOptions:
        \"\"\"Greet somebody.\"\"\"

        name: str = argument(help="who is greeted")
        times: int = option(1, "-n", help="how often")

    options = parse(GreetOptions, argv, "wishbone greet")   # options.times is an int

The docstring is the description of ``--help``, and each default is shown there. A ``bool`` is a
flag, a list takes several words, ``X | None`` is an option that may be absent. Beneath is argparse,
with errors in three lines and words in any order.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

from wishbone.core.cli.bundled import WIDEST
from wishbone.core.config.schema import outside_limits
from wishbone.core.contract.errors import UsageError, did_you_mean

Options = TypeVar("Options")
Epilogue = str | Callable[[], str]
"""Text behind the options in ``--help``; a function is called only when help is asked for."""
REQUIRED: Any = dataclasses.MISSING
"""The default of what must be given."""
COMPUTING = "how it is computed"
"""Heading of engine and device in the help."""


class _Argument(NamedTuple):
    """A field's place on the command line: all that its type and default do not tell."""

    help: str
    flags: tuple[str, ...] | None
    metavar: str | None
    choices: Sequence[str] | None
    group: str | None
    repeat: bool
    default_text: str | None


def option(
    default: object = REQUIRED,
    *flags: str,
    help: str,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    group: str | None = None,
    repeat: bool = False,
    default_text: str | None = None,
) -> Any:
    """Make a field an option ``--like-its-name``, and of other ``flags``.

    ``group`` is the heading that it stands below in the help. ``repeat``: a list is filled by
    giving the option again. ``default_text`` stands in the help instead of the default's value.
    """
    return _field(default, _Argument(help, flags, metavar, choices, group, repeat, default_text))


def argument(default: object = REQUIRED, *, help: str, metavar: str | None = None) -> Any:
    """Make a field a word without a name, in the order of the fields."""
    return _field(default, _Argument(help, None, metavar, None, None, False, None))


def parse(
    options: type[Options], argv: Sequence[str], prog: str, epilogue: Epilogue = ""
) -> Options:
    """Read the words of a command. Raises ``UsageError`` for what it cannot follow."""
    parser = _parser(prog, _description(options), epilogue)
    _add_fields(parser, options)
    return _options_from(options, parser.parse_args(argv))


def parse_subcommand(
    argv: Sequence[str],
    prog: str,
    description: str,
    subcommands: Mapping[str, type],
    epilogue: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> Any:
    """Read the words of a command with subcommands -> the options of the one that is called.

    ``subcommands``: name -> dataclass of options, whose docstring says what it does. ``epilogue``
    has examples of all; each one's own help shows those that call it. ``elsewhere``: name ->
    summary of subcommands that the help lists and something else runs. Raises ``UsageError``.
    """
    parser = _parser(prog, description, epilogue)
    branches = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    for name, options in subcommands.items():
        about = _description(options)
        below = branches.add_parser(
            name,
            help=about.partition("\n")[0].rstrip("."),
            description=about,
            formatter_class=_HelpFormatter,
        )
        below.epilogue = _examples_of(f"{prog} {name} ", epilogue)
        _add_fields(below, options)
    for name, summary in (elsewhere or {}).items():
        branches.add_parser(name, help=summary.rstrip("."))
    namespace = parser.parse_args(argv)
    return _options_from(subcommands[namespace.subcommand], namespace)


class Parser(argparse.ArgumentParser):
    """Takes ``key=value`` after options too, and raises ``UsageError`` for what it cannot follow.

    Its subparsers do the same, because they are of this class.
    """

    _branches = False
    _mixing = False

    epilogue: Epilogue = ""

    def format_help(self) -> str:
        """As in the base class, with ``epilogue``, which may have to be made first."""
        if self.epilogue:
            self.epilog = self.epilogue() if callable(self.epilogue) else self.epilogue
        return super().format_help()

    def add_subparsers(
        self, *, dest: str = argparse.SUPPRESS, required: bool = False, metavar: str | None = None
    ) -> argparse._SubParsersAction:
        """As in the base class; such a parser hands its words on and mixes nothing itself."""
        self._branches = True
        return super().add_subparsers(dest=dest, required=required, metavar=metavar)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Options first, wherever they stand, then the words that are left.

        A word that nobody knows is refused here, where it is known whose help has the right one.
        """
        if self._branches or self._mixing:
            return super().parse_known_args(args, namespace)
        parsed, unknown = self.parse_known_intermixed_args(args, namespace)
        if unknown:
            hint = did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
            raise UsageError(
                f"unrecognized arguments: {' '.join(unknown)}.",
                self.prog,
                f"{hint} See '{self.prog} --help'.".strip(),
            )
        return parsed, unknown

    def parse_known_intermixed_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Read options and words in any order; the base class calls ``parse_known_args`` here."""
        self._mixing = True
        try:
            return super().parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False

    def error(self, message: str) -> NoReturn:
        """Raise ``UsageError``; the command line prints it like any other error."""
        raise UsageError(f"{message}.", self.prog, f"See '{self.prog} --help'.")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Paragraphs fill the line; one with an indented line, such as examples, stays as it is."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=27)
        self._width = min(self._width, WIDEST - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            paragraph if "\n " in paragraph else "\n".join(self._split_lines(paragraph, width))
            for paragraph in text.split("\n\n")
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def _examples_of(command: str, epilogue: str) -> str:
    """Return the lines of ``epilogue`` that call ``command``, with the lines they go on in."""
    lines: list[str] = []
    for line in epilogue.splitlines():
        if line.startswith(f"  {command}") or (lines and lines[-1].endswith("\\")):
            lines.append(line)
    return "\n".join(["examples:", *lines]) if lines else ""


def _parser(prog: str, description: str, epilogue: Epilogue) -> Parser:
    parser = Parser(prog, description=description, formatter_class=_HelpFormatter)
    parser.epilogue = epilogue
    return parser


def _field(default: object, about: _Argument) -> Any:
    metadata = {"argument": about}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _description(options: type) -> str:
    return inspect.cleandoc(options.__doc__ or "")


def _options_from(options: type[Options], namespace: argparse.Namespace) -> Options:
    names = [field.name for field in dataclasses.fields(options)]
    parsed = options(**{name: getattr(namespace, name) for name in names})
    for name, value, limit in outside_limits(parsed):
        flag = _flags_of(options, name)
        raise UsageError(f"{flag}: {value} is outside its range.", flag, f"Allowed: {limit}.")
    return parsed


def _flags_of(options: type, name: str) -> str:
    about: _Argument = options.__dataclass_fields__[name].metadata["argument"]
    return f"--{name.replace('_', '-')}" if about.flags is not None else name.upper()


def _add_fields(parser: argparse.ArgumentParser, options: type) -> None:
    """Add one argument a field: a class's own first, then those of the classes it extends."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    hints = typing.get_type_hints(options)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for cls in options.__mro__:
        for name in inspect.get_annotations(cls):
            if name not in fields:
                continue
            field = fields.pop(name)
            about: _Argument = field.metadata["argument"]
            target: argparse._ActionsContainer = parser
            if about.group is not None:
                if about.group not in groups:
                    groups[about.group] = parser.add_argument_group(about.group)
                target = groups[about.group]
            _add_field(target, field, about, hints[name])


def _add_field(
    target: argparse._ActionsContainer, field: dataclasses.Field, about: _Argument, hint: Any
) -> None:
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    default = None if required else field.default
    if not required and field.default is dataclasses.MISSING:
        default = field.default_factory()
    kind, several = _type_of(hint)
    how: dict[str, Any] = {"help": _help(about, default), "default": default}
    if about.choices is not None:
        how["choices"] = about.choices
    if kind is bool:
        how["action"] = "store_true"
    else:
        how |= {"type": kind, "metavar": about.metavar}
    if several:
        how |= {"action": "append"} if about.repeat else {"nargs": "+" if required else "*"}
    if about.flags is not None:
        if several and not about.repeat:
            how["nargs"] = "+"
        names = [f"--{field.name.replace('_', '-')}", *about.flags]
        names.sort(key=lambda name: name.startswith("--"))
        target.add_argument(*names, dest=field.name, required=required, **how)
    else:
        if not required and not several:
            how["nargs"] = "?"
        target.add_argument(field.name, **how)


def _help(about: _Argument, default: object) -> str:
    text = about.default_text
    if text is None and not (default is None or default is False or default in ("", [])):
        text = str(default)
    whole_help = f"{about.help} (default: {text})" if text else about.help
    return whole_help.replace("%", "%%")


def _type_of(hint: Any) -> tuple[type, bool]:
    """Return the type of one word, and True for a list of them: ``list[int]`` -> int, True."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (inner for inner in typing.get_args(hint) if inner is not types.NoneType)
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0], True
    return hint, False


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The option of everything that decodes, for other dataclasses of options to extend."""

    engine: str = option(
        "auto",
        metavar="NAME[:WEIGHTS]",
        group=COMPUTING,
        help="how decoding steps are computed: auto is the fastest that this machine can have"
        " (C++, built once on first use); eager is plain PyTorch and gives the same samples from"
        " the same seed everywhere; native and graph ask for one of them, with float32,"
        " bfloat16 or int8 weights, such as native:int8",
    )
