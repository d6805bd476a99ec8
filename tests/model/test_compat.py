from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from model.compat import chainer

F, L = chainer.functions, chainer.links


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)


def test_chainer_is_the_last_release_as_it_was_published() -> None:
    assert chainer.__version__ == version("chainer") == "7.8.1"
    assert int(np.__version__.split(".")[0]) >= 2


def test_no_warning_reaches_the_user() -> None:
    run = python("from model.compat import chainer; import chainer.training.extensions, chainer.serializers")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_caller_s_warning_filters_are_left_alone() -> None:
    run = python(
        "import warnings, numpy; before = list(warnings.filters);import model.compat; assert warnings.filters == before"
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_without_chainer_the_extra_is_named() -> None:
    run = python(
        "import sys, importlib.util; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda name, *a: None if name == 'chainer' else find(name, *a);"
        "import model.compat"
    )
    assert run.returncode != 0
    assert "nextword[train]" in run.stderr


def test_the_environment_is_not_changed_without_cupy() -> None:
    if "cupy" in sys.modules or os.environ.get("CHAINER_CUDNN"):
        pytest.skip("CuPy is installed here")
    run = python("import os; import model.compat; print(os.environ.get('CHAINER_CUDNN'))")
    assert run.stdout == "None\n"


def test_a_cupy_that_does_not_load_is_none(tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libcublas.so.13: cannot open shared object file')")
    run = python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r});"
        "from model.compat import chainer; print(chainer.backends.cuda.available)"
    )
    assert run.stdout == "False\n", run.stderr


def test_what_a_language_model_needs_works() -> None:
    """Forward, backward, clipping, Adam, weight decay and a round trip through npz, as Chainer itself does them."""
    np.random.seed(0)
    embed, lstm, linear = L.EmbedID(7, 5), L.LSTM(5, 5), L.Linear(5, 7)
    network = chainer.ChainList(embed, lstm, linear)
    optimizer = chainer.optimizers.Adam(alpha=0.05)
    optimizer.setup(network)
    optimizer.add_hook(chainer.optimizer_hooks.GradientClipping(5))
    optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(1e-6))
    xs = np.arange(7, dtype=np.int32)
    losses = []
    for _ in range(80):
        lstm.reset_state()
        loss = sum(
            F.softmax_cross_entropy(linear(F.dropout(lstm(embed(x[None])), 0.1)), t[None])
            for x, t in zip(xs, np.roll(xs, -1), strict=True)
        )
        network.cleargrads()
        loss.backward()
        loss.unchain_backward()
        optimizer.update()
        losses.append(float(loss.array))
    assert losses[-1] < 0.2 * losses[0]


def test_as_strided_finds_its_types() -> None:
    assert F.as_strided(np.arange(4, dtype=np.float32), (2, 2), (1, 1)).array.tolist() == [[0, 1], [1, 2]]
