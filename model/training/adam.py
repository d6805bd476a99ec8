"""Adam (Kingma and Ba 2015, arXiv 1412.6980), Chainer's, a piece of each parameter at a time on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.compat import chainer

#: Elements of a piece: what is computed with them stays in a core's own cache.
PIECE = 16_384


class AdamRule(chainer.optimizers.adam.AdamRule):
    """Chainer's rule writes eight arrays as large as the parameter, one after the other, each through memory. In pieces
    the same arithmetic gives the same bits. Of Chainer's variants (AMSGrad, AdaBound, decoupled weight decay) there are
    none.
    """

    def update_core_cpu(self, param: Any) -> None:
        if param.grad is None:
            return
        beta1, beta2, eps, step = self.hyperparam.beta1, self.hyperparam.beta2, self.hyperparam.eps, self.alpha_t
        whole = [np.reshape(array, -1, copy=False) for array in (param.data, self.state["m"], self.state["v"])]
        gradient = param.grad.reshape(-1)
        for start in range(0, len(gradient), PIECE):
            w, m, v = (array[start : start + PIECE] for array in whole)
            g = gradient[start : start + PIECE]
            m += (1 - beta1) * (g - m)
            v += (1 - beta2) * (g * g - v)
            w -= step / (np.sqrt(v) + eps) * m


class Adam(chainer.optimizers.Adam):
    def create_update_rule(self) -> AdamRule:
        return AdamRule(self.hyperparam)
