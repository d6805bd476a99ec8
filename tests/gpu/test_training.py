"""Trainings on a GPU: the losses of the CPU, what is saved on one and resumed on the other, and the command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from model import runtimes
from model.artifact import Artifact
from model.training import recipe as recipes
from model.training.data import prepare
from model.training.folder import RECIPE
from model.training.trainer import open_device, train
from tests.gpu.device import needs_gpu
from tests.model.training.test_updater import NETWORKS

pytestmark = needs_gpu
ROOT = Path(__file__).parents[2]

_THINGS = [
    f"{which} {what} {does} ." for which in ("the", "a") for what in ("cat", "dog", "fish") for does in ("sat", "ran")
]
TEXT = " ".join(_THINGS[i * i % len(_THINGS)] for i in range(400))


def recipe_of(network: dict[str, Any], **training: Any) -> recipes.Recipe:
    base = recipes.load("simple-sequence").model_dump()
    base["network"] = network
    settings = {
        "epochs": 30,
        "batch_size": 8,
        "window": 12,
        "validations": 3,
        "optimizer": "adam",
        "learning_rate": 0.01,
    }
    base["training"] = {**settings, "gradient_clipping": 0.5, **training}
    return recipes.Recipe.model_validate(base)


def losses(recipe: recipes.Recipe, out: Path, device: str, *, resume: bool = False, tf32: bool = False) -> list[float]:
    """The training losses that the log has, of a training to its end."""
    text = out.parent / "text.txt"
    text.write_text(TEXT)
    quiet = Console(file=io.StringIO())
    data = prepare(recipe, text, out, resume=resume, console=quiet)
    train(recipe, data, out, device=open_device(device, tf32=tf32), resume=resume, console=quiet)
    return [entry["main/loss"] for entry in json.loads((out / "log").read_text())]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network["kind"])
def test_every_network_has_the_losses_of_the_cpu(network: dict[str, Any], tmp_path: Path) -> None:
    """Hundreds of updates, clipped; rounding grows with them, so the first losses are compared closely."""
    recipe = recipe_of(network)
    cpu = losses(recipe, tmp_path / "cpu", "cpu")
    gpu = losses(recipe, tmp_path / "gpu", "cuda:0")
    assert len(cpu) == len(gpu) > 50
    np.testing.assert_allclose(gpu[:10], cpu[:10], rtol=1e-3)
    np.testing.assert_allclose(gpu, cpu, rtol=0.05, atol=0.02)
    assert gpu[-1] < 0.8 * gpu[0]


def test_dropout_and_tf32_train_as_well(tmp_path: Path) -> None:
    network = {"kind": "lstm_stack", "embedding_size": 32, "hidden_sizes": [48, 32]}
    plain = losses(recipe_of(network), tmp_path / "plain", "cuda:0")
    rounded = losses(recipe_of(network), tmp_path / "rounded", "cuda:0", tf32=True)
    np.testing.assert_allclose(rounded[-1], plain[-1], rtol=0.1, atol=0.02)
    dropped = losses(recipe_of(network, dropout=0.5), tmp_path / "dropped", "cuda:0")
    again = losses(recipe_of(network, dropout=0.5), tmp_path / "again", "cuda:0")
    assert plain[-1] < dropped[-1] < dropped[0]
    np.testing.assert_allclose(again[:10], dropped[:10], rtol=1e-3)  # the same masks


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda:0"), ("cuda:0", "cpu")])
def test_a_snapshot_goes_on_on_the_other_device(first: str, second: str, tmp_path: Path) -> None:
    network = {"kind": "lstm_stack", "embedding_size": 8, "hidden_sizes": [12, 8]}
    recipe = recipe_of(network, decay=False)  # so that half of it is the half of a longer one
    whole = losses(recipe, tmp_path / "whole", "cpu")
    out = tmp_path / "part"
    losses(recipe_of(network, decay=False, epochs=recipe.training.epochs / 2), out, first)
    (out / RECIPE).write_text(recipe.model_dump_json())
    resumed = losses(recipe, out, second, resume=True)
    np.testing.assert_allclose(resumed[-5:], whole[-5:], rtol=0.1, atol=0.02)


def test_the_command_trains_a_model_that_the_runtimes_agree_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from app.cli import main; main()", "train", "--recipe", "simple-sequence"]
    out = str(tmp_path / "out")
    done = subprocess.run(
        [*command, "--device", "cuda:0", "--out", out], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    artifact = Artifact.load(tmp_path / "out" / "model")
    ids = np.array([1, 2, 2, 3, 3, 3, 4, 4])
    rows = {}
    for name in ("cpu-float32", "cuda-float32", "cuda", "chainer"):
        runtime = runtimes.load(artifact, name)
        state = runtime.zero_state(1)
        for id in ids:
            state = runtime.advance(np.array([id]), state)
        rows[name] = runtime.log_probabilities(state[-1])
    np.testing.assert_allclose(rows["cuda-float32"], rows["cpu-float32"], atol=1e-4)
    np.testing.assert_allclose(rows["chainer"], rows["cpu-float32"], atol=1e-4)
    np.testing.assert_allclose(rows["cuda"], rows["cpu-float32"], atol=1e-2)
