"""`nextword train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

#: Exit status when there can be no training, or no more of it: recipe, text, device, disk, divergence.
CANNOT_TRAIN = 2
#: Exit status after Ctrl-C or SIGTERM, as shells have it.
INTERRUPTED = 130


def command(
    recipe: Annotated[
        str, typer.Option(help="A recipe that comes with nextword (see --list), or a .toml file of yours.")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(
            help="The folder that holds the recipe's files, or one UTF-8 text file to train on instead of them."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where snapshot, log, plots and the model go. Default: out/RECIPE."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, or cuda:0, cuda:1, ... auto is a GPU if one answers.")
    ] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the snapshot in --out, on the text kept there.")
    ] = False,
    list_recipes: Annotated[bool, typer.Option("--list", help="Show the recipes and stop.")] = False,
) -> None:
    """Train a model in Chainer by a recipe.

    Writes a snapshot every two minutes and on Ctrl-C (a second Ctrl-C stops at once); --resume goes on from it and
    ends with the same weights as if nothing had happened. The model is then in OUT/model: nextword serve --model
    OUT/model. Text that is held out for nextword evaluate is in OUT/held-out.

    \b
    nextword train --recipe simple-sequence
    nextword train --recipe wikitext-2-small --data wikitext-2/
    nextword train --recipe english-small --data my-archive.txt --out out/mine
    """
    from rich.console import Console

    from model.artifact import ArtifactError
    from model.corpus import CorpusError
    from model.training import recipe as recipes

    if list_recipes:
        for name in recipes.names():
            typer.echo(f"{name}: {recipes.load(name).description}")
        return
    if not recipe:
        raise typer.BadParameter(f"name one of {', '.join(recipes.names())}, or a .toml file", param_hint="--recipe")
    # Rich's own line breaks would cut the lines of a log.
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        from model.training.data import prepare
        from model.training.folder import MODEL, FolderError
        from model.training.trainer import TrainingError, open_device, train
    except ModuleNotFoundError as error:
        _stop(str(error))
    try:
        chosen = recipes.load(recipe)
        folder = out if out is not None else Path("out") / chosen.name
        chainer_device = open_device(device)
        prepared = prepare(chosen, data, folder, resume=resume, console=console)
        artifact = train(chosen, prepared, folder, device=chainer_device, resume=resume, console=console)
    except (recipes.RecipeError, CorpusError, FolderError, TrainingError, ArtifactError) as error:
        _stop(str(error))
    except KeyboardInterrupt:
        _stop("stopped at once; what was in the folder before is whole", status=INTERRUPTED)
    if artifact is None:
        raise typer.Exit(INTERRUPTED)
    typer.echo(f"{artifact.id} is in {folder / MODEL}; try: nextword serve --model {folder / MODEL}")


def _stop(reason: str, status: int = CANNOT_TRAIN) -> NoReturn:
    typer.echo(f"nextword train: {reason}", err=True)
    raise typer.Exit(status)
