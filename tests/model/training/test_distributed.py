"""Several processes under mpiexec train as one does; where one fails, all end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from model.artifact import Artifact
from model.training.folder import MODEL, SNAPSHOT
from tests.model.training.texts import AWD, write_recipe, write_text

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
if MPIEXEC is None or find_spec("mpi4py") is None:
    reason = "there is no MPI here: pip install mpi4py mpich"
    if os.environ.get("CI"):
        raise RuntimeError(reason)
    pytest.skip(reason, allow_module_level=True)

ROOT = Path(__file__).parents[3]
PATIENCE = 120  # seconds; nothing here takes so long unless it hangs
#: Nothing is drawn in these trainings but the first weights, so they are the same on any number of processes.
NOTHING_DRAWN = {"dropout": 0.0, "candidates": 0}
#: Run in every process before the command; it may see to it that things go wrong in one of them.
FAILING = """
import os, signal, sys
from mpi4py import MPI
from model.training.updater import TruncatedBPTTUpdater
update = TruncatedBPTTUpdater.update_core
def failing(self):
    if self.iteration == int(os.environ.get("FAIL_AT", -1)) and MPI.COMM_WORLD.rank == int(os.environ["FAIL_RANK"]):
        {how}
    update(self)
TruncatedBPTTUpdater.update_core = failing
from app.cli import main
main()
"""


class Training:
    """A folder to train in."""

    def __init__(self, folder: Path, **training: object) -> None:
        folder.mkdir(exist_ok=True)
        self.recipe = write_recipe(folder / "small.toml", **training)
        self.text = write_text(folder / "text.txt")
        self.out = folder / "out"
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self, processes: int, *more: str, how: str = "pass", fail: tuple[int, int] = (-1, -1)
    ) -> subprocess.Popen[str]:
        """fail: the iteration and the rank where `how` is done."""
        command = [sys.executable, "-W", "error", "-c", FAILING.format(how=how), "train", "--recipe", self.recipe]
        command += ["--data", self.text, "--out", self.out, *more]
        if processes > 1:
            command = [MPIEXEC, "-n", str(processes), *command, "--distributed"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "FAIL_AT": str(fail[0]), "FAIL_RANK": str(fail[1])}
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, processes: int, *more: str) -> str:
        process = self.start(processes, *more)
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
        return said

    def stop_in_two(self, at: int) -> str:
        """Two processes, of which one is told to stop in its `at`-th update: both do after that one."""
        process = self.start(2, how="os.kill(os.getpid(), signal.SIGTERM)", fail=(at - 1, 1))
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, said
        assert iterations(self) == at
        return said

    def losses(self, name: str) -> list[float]:
        return [entry[name] for entry in json.loads((self.out / "log").read_text()) if name in entry]

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


@pytest.fixture
def started() -> Iterator[list[Training]]:
    trainings: list[Training] = []
    yield trainings
    for training in trainings:
        training.end()


def iterations(training: Training) -> int:
    with np.load(training.out / SNAPSHOT, allow_pickle=False) as npz:
        return int(npz["updater/iteration"])


def test_two_processes_of_two_streams_have_the_curve_of_one_of_four_which_goes_on_from_their_snapshot(
    tmp_path: Path, started: list[Training]
) -> None:
    alone, both = (Training(tmp_path / name, **NOTHING_DRAWN) for name in ("alone", "both"))
    started += [alone, both]
    alone.run(1)
    said = both.stop_in_two(at=17)
    assert len(re.findall("words to train on", said)) == 1  # one of them speaks, and only that one
    assert len(re.findall("validation perplexity", said)) == 1
    both.run(1, "--resume")
    assert len(alone.losses("main/loss")) == 30
    for name in ("main/loss", "main/gradient_norm", "validation/loss"):
        np.testing.assert_allclose(both.losses(name), alone.losses(name), rtol=1e-4, err_msg=name)
    ours, theirs = (Artifact.load(training.out / MODEL).weights for training in (both, alone))
    for name, weight in theirs.items():
        np.testing.assert_allclose(ours[name], weight, atol=2e-3, err_msg=name)


def test_stopped_and_resumed_in_two_processes_it_ends_bit_equal(tmp_path: Path, started: list[Training]) -> None:
    """With all that is drawn anew in each window, and the mean of the weights, which the first one keeps alone."""
    whole, stopped = (Training(tmp_path / name, **AWD) for name in ("whole", "stopped"))
    started += [whole, stopped]
    said = whole.run(2)
    assert said.count("try: nextword serve") == 1
    total = iterations(whole)
    stop = total - 3  # there is a mean by then
    said = stopped.stop_in_two(at=stop)
    assert said.count(f"interrupted at iteration {stop} of {total}; --resume goes on from there\n") == 1
    stopped.run(2, "--resume")
    weights = Path(MODEL) / "model.safetensors"
    assert (stopped.out / weights).read_bytes() == (whole.out / weights).read_bytes()


def test_where_one_fails_all_end_and_the_snapshot_is_whole(tmp_path: Path, started: list[Training]) -> None:
    training = Training(tmp_path, **NOTHING_DRAWN)
    started.append(training)
    training.stop_in_two(at=6)
    for rank, how, says in (
        (1, "raise RuntimeError('out of luck')", r"process 1 of 2:\nTraceback[^$]*RuntimeError: out of luck\n"),
        (0, "raise OSError(28, 'No space')", r"nextword train \(process 0 of 2\): cannot write to .*: No space"),
        (1, "os.kill(os.getpid(), signal.SIGKILL)", "EXIT CODE: 9"),
    ):
        process = training.start(2, "--resume", how=how, fail=(9, rank))
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode != 0
        assert re.search(says, said), said
        assert iterations(training) == 6
        assert not (training.out / MODEL).exists()


def test_where_the_first_finds_no_text_the_others_do_not_wait(tmp_path: Path, started: list[Training]) -> None:
    training = Training(tmp_path)
    started.append(training)
    process = training.start(2, "--resume")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, said
    assert re.search(r"nextword train \(process 0 of 2\): .*out holds no training to resume", said), said
