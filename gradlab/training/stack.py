"""Models of equal shape and their optimizers as stacks: one call runs all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ..estimators import Estimator
from ..model import LatentModel
from ..networks.binary_autoencoder import ChannelsLast
from .run import Run
from .step import decoder_backward, encoder_backward, kl_temperature


class Stack:
    """Runs of equal shape at the same step. Their parameters and optimizers' states are copied into stacks."""

    def __init__(self, runs: Sequence[Run]):
        self.runs, self.model, self.kind = runs, runs[0].model, runs[0].model.kind
        self.calls = _Calls(self.model)
        self.parameters: dict[str, Tensor] = stack_module_state([run.model for run in runs])[0]
        # each number is updated by itself, so one optimizer over stacks does what one per cell would
        like: Any = runs[0].optimizer
        self.optimizer: torch.optim.Optimizer = type(like)(self.parameters.values(), **like.defaults)
        for name, stacked in self.parameters.items():
            states = [run.optimizer.state.get(run.model.get_parameter(name)) for run in runs]
            if states[0]:
                of_stack = {key: torch.stack([own[key] for own in states]) for key in states[0] if key != "step"}
                self.optimizer.state[stacked] = of_stack | {"step": states[0]["step"].clone()}
        self.sums = torch.stack([run.sums for run in runs])

    def hand_back(self) -> None:
        """Copy everything back into the runs."""
        for name, stacked in self.parameters.items():
            of_stack = self.optimizer.state[stacked]
            for index, run in enumerate(self.runs):
                own = run.model.get_parameter(name)
                own.data.copy_(stacked.detach()[index])
                of_cell = {key: value[index].clone() for key, value in of_stack.items() if key != "step"}
                run.optimizer.state[own] = of_cell | {"step": of_stack["step"].clone()}
        for run, sums in zip(self.runs, self.sums, strict=True):
            run.sums.copy_(sums)

    def check(self) -> None:
        """ValueError for models that vmap cannot take, or takes otherwise than one by one."""
        named = f"settings: {self.model.architecture} with config {self.model.config} cannot be stacked"
        if buffers := [name for name, _ in self.model.named_buffers()]:
            raise ValueError(f"{named} (training may change its buffer {buffers[0]}); train its cells alone")
        x = torch.stack([run.images.floats(slice(0, 2)) for run in self.runs]).to(self.runs[0].device)
        try:
            with torch.no_grad():
                self.each("decode", torch.zeros_like(self.each("logits", x)))
        except (RuntimeError, ValueError) as error:
            reason = str(error.__cause__ or error).splitlines()[0][:200]  # the cause: LatentModel suspects the images
            raise ValueError(f"{named} ({reason}); train its cells alone") from None

    def each(self, method: str, given: Tensor) -> Tensor:
        """`logits` or `decode` of every model: (cell, ...) -> (cell, ...)."""

        def one(parameters: dict[str, Tensor], given: Tensor) -> Tensor:
            return functional_call(self.calls, parameters, (method, given))

        return vmap(one)({f"model.{name}": stacked for name, stacked in self.parameters.items()}, given)

    def one_step(self, batches: Sequence[Tensor]) -> None:
        """A step of every run, on a batch each."""
        estimators = [run.estimator.at(*run.temperatures(run.step)) for run in self.runs]
        x = torch.stack([run.images.floats(batch) for run, batch in zip(self.runs, batches, strict=True)])
        x = x.to(self.runs[0].device)
        noise = [run.noise(estimator, x[0]) for run, estimator in zip(self.runs, estimators, strict=True)]
        self.optimizer.zero_grad()
        loss, kl = self.backward(estimators, x, noise)
        self.optimizer.step()
        self.sums += torch.stack([loss, kl, torch.ones_like(loss)], -1).double() * x.shape[1]
        for run in self.runs:
            run.step += 1

    def backward(self, estimators: list[Estimator], x: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        """`step.backward` of every model: x (cell, example, ...) -> batch means of loss and KL, (cell,) each."""
        logits = self.each("logits", x)
        detached = logits.detach()
        points, losses, of_decoder, derivatives = self._evaluated(estimators, x, detached, noise)
        estimates = []
        for i, (run, estimator) in enumerate(zip(self.runs, estimators, strict=True)):
            loss = run.baseline.centre(losses[i]) if run.baseline else losses[i]
            derivative = None if derivatives is None else derivatives[i]
            estimates.append(estimator.estimate(self.kind, detached[i], noise[i], points[i], loss, derivative))
        tf = torch.tensor([estimator.tf for estimator in estimators], dtype=logits.dtype, device=logits.device)
        t = kl_temperature(self.runs[0].settings.kl, tf.reshape(-1, *[1] * (logits.ndim - 1)))
        return of_decoder, encoder_backward(self.kind, logits, torch.stack(estimates), t)

    def _evaluated(
        self, estimators: list[Estimator], x: Tensor, logits: Tensor, noise: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Points, losses (cell, evaluation, example), the batch means of the decoder's, df/dz; its backward."""
        cells = list(zip(estimators, logits, noise, strict=True))
        points = torch.stack([estimator.points(self.kind, own, g) for estimator, own, g in cells])
        shares = [e.weights(self.kind, own, p) for (e, own, _), p in zip(cells, points, strict=True)]
        observed = x[:, None].expand(-1, points.shape[1], *x.shape[1:])
        codes = points.flatten(1, 2).requires_grad_(any(estimator.uses_derivative for estimator in estimators))
        outputs = self.each("decode", codes)
        loss = self.model.losses_of(outputs.flatten(0, 1), observed.flatten(0, 2)).reshape(points.shape[:3])
        weights = None
        if any(own is not None for own in shares):
            equal = torch.full_like(loss[0], 1 / points.shape[1])
            weights = torch.stack([equal if own is None else own for own in shares])
        of_decoder, derivative = decoder_backward(loss, weights, codes)
        return points, loss.detach(), of_decoder, None if derivative is None else derivative.reshape(points.shape)


class _Calls(nn.Module):
    """A model's methods by name, for `functional_call`; without memory orders, of which vmap knows none."""

    def __init__(self, model: LatentModel):
        super().__init__()
        self.model = copy.deepcopy(model).to("meta")  # its numbers come with each call
        for module in list(self.model.modules()):
            for name, child in module.named_children():
                if isinstance(child, ChannelsLast):
                    setattr(module, name, nn.Identity())

    def forward(self, method: str, given: Tensor) -> Tensor:
        return getattr(self.model, method)(given)
