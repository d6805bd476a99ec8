"""Lets Chainer 7.8.1, last released in 2022, run unpatched on today's Python, NumPy and CuPy.

Import `chainer` from here and nowhere else: ``from model.compat import chainer``. What stands in the way, and no more:

* its import runs `_environment_check`, which needs `numpy.distutils` and `pkg_resources`; nothing uses the answer;
* `functions/array/as_strided.py` reads `numpy.sctypes`, which NumPy 2 removed;
* CuPy 14 removed cuDNN, which Chainer takes for granted, and its import warns where NCCL is missing.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
import warnings

import numpy as np

_INSTALL = "Chainer is not installed: it trains models and runs the reference runtime. pip install 'nextword[train]'"


def _stub_environment_check() -> None:
    stub = types.ModuleType("chainer._environment_check")
    stub.check = lambda: None  # type: ignore[attr-defined]
    sys.modules.setdefault(stub.__name__, stub)


def _restore_numpy_sctypes() -> None:
    if hasattr(np, "sctypes"):
        return
    np.sctypes = {  # type: ignore[attr-defined]
        "int": [np.int8, np.int16, np.int32, np.int64],
        "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
        "float": [np.float16, np.float32, np.float64, np.longdouble],
        "complex": [np.complex64, np.complex128, np.clongdouble],
        "others": [bool, object, bytes, str, np.void],
    }


def _without_cudnn() -> None:
    try:
        cupy, cudnn = (importlib.util.find_spec(name) for name in ("cupy", "cupy.cudnn"))
    except ImportError:  # there is none, or one that does not load, which Chainer takes for none
        return
    if cupy is not None and cudnn is None:
        os.environ.setdefault("CHAINER_CUDNN", "0")


if importlib.util.find_spec("chainer") is None:
    raise ModuleNotFoundError(_INSTALL, name="chainer")
_stub_environment_check()
_restore_numpy_sctypes()
_without_cudnn()
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="(?s).*(nccl|cudnn)", category=UserWarning)
    import chainer

__all__ = ["chainer"]
