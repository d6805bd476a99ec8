"""The command line, `nextword`. Each command is a module of `app.commands`, imported only when it is called for, so
that serving starts fast and needs none of the packages that training does."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

#: Each module has a function `command`.
COMMANDS = {
    "serve": "app.commands.serve",
    "train": "app.commands.train",
    "evaluate": "app.commands.evaluate",
    "predict": "app.commands.predict",
    "import": "app.commands.importing",
    "average": "app.commands.averaging",
}


def application(arguments: list[str]) -> typer.Typer:
    """The commands that `arguments` may be about: the one they name, else all."""
    app = typer.Typer(name="nextword", add_completion=False, no_args_is_help=True, rich_markup_mode=None)

    @app.callback()
    def _nextword() -> None:
        """Next-word prediction with recurrent networks: trained, measured and served."""

    named = arguments[0] if arguments else ""
    for name in [named] if named in COMMANDS else COMMANDS:
        app.command(name)(import_module(COMMANDS[name]).command)
    return app


def main() -> None:
    """What the `nextword` script calls."""
    application(sys.argv[1:])()
