"""How options of commands are written down: documented dataclasses, from which tyro makes the command line.

A command is a frozen dataclass: its docstring is the command's help, each field an option, the docstring below a field
that option's help, and `run` what the command does. Groups of options are dataclasses of their own, which the
functions behind the commands take as they are, so that an option, its default and its meaning stand once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import tyro
from tyro.conf import Positional, arg

# What may be left out says so by having no default in its help; tyro would write "None" or nothing there.
Flag = Annotated[bool, arg(help_behavior_hint="")]
OptionalFile = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
OptionalFolder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
OptionalSource = Annotated[Path | None, arg(metavar="SOURCE", help_behavior_hint="")]
OptionalText = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
OptionalInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
OptionalAddress = Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint="")]
# Positional ones that several commands have.
CatalogFile = Annotated[Positional[Path], arg(metavar="CATALOG")]
RunFolder = Annotated[Positional[Path], arg(metavar="RUN")]
RunFolders = Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]", help_behavior_hint="")]


class OptionError(Exception):
    """An option that is out of range or contradicts another; the message says which, and what to do.

    No ValueError, which tyro would wrap in words of its own.
    """


class Command(Protocol):
    """What `parse` makes of the words that were typed."""

    def run(self) -> None:
        """Does it.

        Raises:
            ValueError, OptionError, OSError: the user's mistake, or the machine's, in one sentence.
        """
        ...


C = TypeVar("C", bound=Command)


def parse(command: type[C], program: str, words: Sequence[str]) -> C:
    """The command that these words mean.

    Raises:
        SystemExit: help was asked for, or tyro cannot make sense of the words and has said so.
        OptionError: as the command's dataclasses raise it.
    """
    found = tyro.cli(command, prog=program, args=list(words), config=(tyro.conf.FlagCreatePairsOff,))
    typed = (word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--"))
    object.__setattr__(found, "typed", frozenset(typed))
    return found


def typed_options(command: Command) -> frozenset[str]:
    """The options that were typed for a command, such as --size: what was left out may be known from elsewhere."""
    return getattr(command, "typed", frozenset())


def keys_last(words: Sequence[str]) -> list[str]:
    """The words with those like `optimizer.epochs=3` at the end: they may stand before, between and after options."""
    keys = [word for word in words if "=" in word and not word.startswith("-")]
    return [*(word for word in words if word not in keys), *keys]


def keys_second(words: Sequence[str]) -> list[str]:
    """The same behind the first word, where options take several words each, which would take keys as well."""
    keys = [word for word in words if "=" in word and not word.startswith("-")]
    others = [word for word in words if word not in keys]
    return [*others[:1], *keys, *others[1:]] if others and not others[0].startswith("-") else list(words)
