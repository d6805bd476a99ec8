"""Whether a GPU is there to test on."""

from __future__ import annotations

import pytest

from model.devices import cuda_failure

FAILURE = cuda_failure()

#: Marks of tests that run wherever a device answers, and say elsewhere why they do not.
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(FAILURE is not None, reason=f"no GPU: {FAILURE}")]
