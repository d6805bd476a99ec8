"""`chainer.gradient_check`, whose package wants `pkg_resources` for decorators that nothing here uses."""

from __future__ import annotations

import sys
import types

from model.compat import chainer

sys.modules.setdefault("pkg_resources", types.ModuleType("pkg_resources"))
from chainer import gradient_check  # noqa: E402

__all__ = ["chainer", "gradient_check"]
