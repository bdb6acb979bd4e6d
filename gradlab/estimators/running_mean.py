"""A running mean of earlier losses: the baseline of estimators with a `baseline_decay`."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMean:
    """A baseline: the weighted mean of the batch-mean losses of all earlier draws or training steps.

    m_t = decay m_{t-1} + (1 - decay) mean of f_t, divided by 1 - decay^t as in Adam; 0 before the first draw.
    It does not depend on the draw it is subtracted from, so it adds no bias.

    Examples
    --------
    >>> baseline = gradlab.estimators.RunningMean(decay=0.99)
    >>> estimator = gradlab.estimators.get("reinforce", baseline="running-mean")
    >>> logits = torch.zeros(5, 3, 8, requires_grad=True)
    >>> for step in range(3):
    ...     loss = gradlab.estimators.surrogate_loss(estimator, logits, lambda z: z.sum((1, 2)), baseline=baseline)
    >>> loss.tolist()
    [3.0, 3.0, 3.0, 3.0, 3.0]
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.state = torch.zeros(2, dtype=torch.float64)  # m_t and 1 - decay^t: the whole state

    def centre(self, loss: Tensor) -> Tensor:
        """`loss` (evaluation, ..., example) minus, for each draw, the running mean before it; `...` are draws.

        Draws are processed one after another, so the result does not depend on chunks. Not in place.
        """
        draws = loss.reshape(loss.shape[0], -1, loss.shape[-1])
        m, weight = self.state.tolist()
        before = []
        for mean in draws.double().mean((0, 2)).tolist():
            before.append(m / weight if weight > 0 else 0.0)
            m = self.decay * m + (1 - self.decay) * mean
            weight = self.decay * weight + (1 - self.decay)
        self.state = torch.tensor([m, weight], dtype=torch.float64)
        return (draws - draws.new_tensor(before)[:, None]).reshape(loss.shape)


class RunningMeans:
    """The running means of several models, updated one training step at a time without waiting for the device."""

    def __init__(self, decay: float, state: Tensor):
        self.decay, self.state = decay, state  # (model, 2) float64, updated in place

    def centre(self, loss: Tensor) -> Tensor:
        """`RunningMean.centre` for one step of each model; loss is (evaluation, model, example)."""
        m, weight = self.state.unbind(-1)
        before = torch.where(weight > 0, m / weight, 0.0)
        now = torch.stack([loss.double().mean((0, 2)), torch.ones_like(m)], -1)
        self.state.mul_(self.decay).add_((1 - self.decay) * now)
        return loss - before.to(loss.dtype)[:, None]
