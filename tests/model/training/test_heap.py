import platform
import subprocess
import sys

import pytest

# Arrays of 1 to 30 MB taken and freed, as a step of a training does; the page faults that a second round of it has.
_STEPS = """
import resource, sys
import numpy as np
from model.training.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    arrays = [np.ones(size << 18, np.float32) for size in (1, 30, 8, 30, 2, 30)]
    del arrays
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _STEPS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
def test_freed_memory_is_used_again() -> None:
    assert _faults("kept") < 100 < _faults("as it comes")
