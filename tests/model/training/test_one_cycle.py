from __future__ import annotations

import numpy as np
import pytest

from model.training.one_cycle import one_cycle


@pytest.mark.parametrize(
    ("progress", "rate", "momentum"),
    [
        (0.0, 0.0005, 0.8),
        (0.04, 0.00275, 0.75),
        (0.08, 0.005, 0.7),
        (0.3, 0.005, 0.7),
        (0.5, 0.005, 0.7),
        (0.71, 0.00275, 0.75),
        (0.92, 0.0005, 0.8),
        (0.96, 0.00025, 0.8),
        (1.0, 0.0, 0.8),
    ],
)
def test_up_along_down_and_out(progress: float, rate: float, momentum: float) -> None:
    assert one_cycle(progress, 0.005) == pytest.approx((rate, momentum))


def test_nothing_jumps() -> None:
    values = np.array([one_cycle(progress, 1.0) for progress in np.linspace(0, 1, 1001)])
    assert np.abs(np.diff(values, axis=0)).max() < 0.02
