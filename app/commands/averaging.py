"""`nextword average`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer


def command(
    models: Annotated[list[Path], typer.Argument(metavar="DIR DIR...", help="Model directories.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The model directory to make.", show_default=False)],
    share: Annotated[
        list[float] | None,
        typer.Option(help="How much the models count, once for each in their order; the same for all if left out."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name; by default that of the first.", show_default=False)
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the model that is in --out.")] = False,
) -> None:
    """Make one model of several: the mean of their weights.

    For a model that was fine-tuned and the one it began with (nextword train --base-model): their mean forgets little
    of what the second knew and keeps most of what the first has learnt. Try shares on text that neither was trained on.

    \b
    nextword average out/tuned/model model/pretrained/english --out out/both
    nextword average out/tuned/model model/pretrained/english --share 0.7 --share 0.3 --out out/both
    nextword evaluate out/both --data held-out.txt
    """
    from model.artifact import CONFIG, NAME, NAMED, Artifact, ArtifactError
    from model.soup import SoupError, write_soup

    if name is not None and not NAME.fullmatch(name):
        _stop(f"--name {name!r}: {NAMED}")
    if (out / CONFIG).exists() and not replace:
        _stop(f"{out}: there is a model already; give --replace to replace it")
    try:
        artifacts = [Artifact.load(path) for path in models]
        artifact = write_soup(
            out, artifacts, share or [1.0] * len(artifacts), name=artifacts[0].name if name is None else name
        )
    except (SoupError, ArtifactError) as error:
        _stop(str(error))
    typer.echo(f"{artifact.id} is in {out}; try: nextword evaluate {out} --data held-out.txt")


def _stop(reason: str) -> NoReturn:
    typer.echo(f"nextword average: {reason}", err=True)
    raise typer.Exit(2)
