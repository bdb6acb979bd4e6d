"""Models of equal shape, their optimizers and their random numbers as stacks: one call runs all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .. import errors
from ..datasets import Images
from ..estimators import Estimator
from ..estimators.joined import Joined, Part
from ..estimators.probing import takes_tensors
from ..estimators.running_mean import RunningMeans
from ..latents import derived_seed
from ..model import LatentModel
from ..networks.binary_autoencoder import ChannelsLast
from . import updates
from .feed import Feed
from .linear import LinearLayers
from .run import Run
from .step import VALIDATED, decoder_backward, encoder_backward, kl_temperature

OUTPUTS = 2**28  # numbers of the decoder's output at once when validating
MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names of the running means of gradients and of their squares


class Stack:
    """Runs of equal shape at the same step. Their numbers become views of the stacks: what moves one moves the other.

    All that `step` reads and writes are tensors on the device, so that it can be captured and replayed there.
    """

    def __init__(self, runs: Sequence[Run]):
        self.runs, first = list(runs), runs[0]
        self.device, self.kind, self.model = first.device, first.model.kind, first.model
        self.calls = _Calls(self.model)
        self.parameters: dict[str, Tensor] = stack_module_state([run.model for run in runs])[0]
        self.means, self.squares = ({name: self._moment(name, key) for name in self.parameters} for key in MOMENTS)
        dtype = next(iter(self.parameters.values())).dtype
        self.lr = torch.tensor([run.settings.lr for run in runs], dtype=dtype, device=self.device)
        self.t = torch.tensor(first.step, dtype=torch.float64, device=self.device)
        self.sums = torch.stack([run.sums for run in runs])
        self.parts, self.back = self._parts()
        self._share()
        self.feed = Feed(self.runs)
        self.update: Callable[..., None] = updates.update

    @property
    def state(self) -> list[Tensor]:
        """All that a step changes, but for gradients."""
        stacks = [stacked.detach() for of in (self.parameters, self.means, self.squares) for stacked in of.values()]
        running = [part.baseline.state for part in self.parts if isinstance(part.baseline, RunningMeans)]
        return [*stacks, *running, self.t, self.sums, *self.feed.counters]

    def step(self, examples: int) -> None:
        """Makes a step of every run on its next batch, with this number of examples."""
        x, noise, tf, tb = self.feed.take(examples)
        for stacked in self.parameters.values():
            stacked.grad = None
        with torch.enable_grad():
            loss, kl = self.backward(x, noise, tf, tb)
        with torch.no_grad():
            self.sums += torch.stack([loss, kl, torch.ones_like(loss)], -1).double() * examples
            self.t += 1
            moved = [name for name, stacked in self.parameters.items() if stacked.grad is not None]
            self.update(
                [self.parameters[name].detach() for name in moved],
                [self.parameters[name].grad for name in moved],
                [self.means[name] for name in moved],
                [self.squares[name] for name in moved],
                self.lr,
                updates.numbers(self.runs[0].settings.optimizer, self.t),
            )

    def backward(self, x: Tensor, noise: Tensor, tf: Tensor, tb: Tensor) -> tuple[Tensor, Tensor]:
        """`step.backward` of every run: batch means of loss and KL, (run,) each.

        x is (run, example, ...), noise (array, run, example, latent, category), temperatures (run,).
        """
        logits = self.each("logits", x)
        detached = logits.detach()
        t_f, t_b = (t.reshape(-1, *[1] * (logits.ndim - 1)) for t in (tf, tb))
        parts = [replace(p, estimator=p.estimator.at(t_f[p.places], t_b[p.places])) for p in self.parts]
        joined = Joined(parts, self.back)
        of_decoder = tf.new_empty(0)

        def loss_at(points: Tensor, differentiated: bool) -> tuple[Tensor, Tensor | None]:
            nonlocal of_decoder
            weights = joined.weights(self.kind, detached, points)
            loss, of_decoder, derivative = self._evaluated(points, x, weights, differentiated)
            return loss, derivative

        estimate = joined.evaluate(self.kind, detached, noise, loss_at)
        t = kl_temperature(self.runs[0].settings.kl, t_f)
        return of_decoder, encoder_backward(self.kind, logits, estimate, t)

    def each(self, method: str, given: Tensor, shared: bool = False, places: slice | None = None) -> Tensor:
        """`logits` or `decode` of the runs' models: (run, ...) -> (run, ...); `shared`: given the same, (...)."""

        def one(parameters: dict[str, Tensor], given: Tensor) -> Tensor:
            return functional_call(self.calls, parameters, (method, given))

        stacked = {f"model.{name}": p if places is None else p[places] for name, p in self.parameters.items()}
        return vmap(one, in_dims=(0, None if shared else 0))(stacked, given)

    @torch.no_grad()
    def evaluate(self, images: Images) -> Tensor:
        """`step.evaluate` of every run, at its temperatures in force: (run, figure) float64, on the device."""
        generators = {seed: torch.Generator(self.device) for seed in self.feed.seeds}
        for seed, generator in generators.items():
            generator.manual_seed(derived_seed(seed, "validation"))
        tf = torch.tensor([run.in_force[0] for run in self.runs], dtype=self.feed.dtype, device=self.device)
        pixels = images.pixels[0].numel()
        together = max(1, OUTPUTS // (pixels * VALIDATED))
        sums = torch.zeros(len(self.runs), 3, dtype=torch.float64, device=self.device)
        for start in range(0, len(images), VALIDATED):
            x = images.floats(slice(start, start + VALIDATED)).to(self.device)
            shape = (len(x), *self.model.code_shape)
            of_seeds = torch.stack(
                [self.kind.noise(shape, dtype=x.dtype, device=self.device, generator=g) for g in generators.values()]
            )
            for first in range(0, len(self.runs), together):
                places = slice(first, first + together)
                sums[places] += self._evaluation(x, of_seeds[self.feed.of[places]], tf[places], places)
        return sums / len(images)

    def finite(self) -> Tensor:
        """Whether sums and weights of each run are finite: (run,), on the device."""
        whole = [torch.isfinite(stacked.detach()).flatten(1).all(1) for stacked in self.parameters.values()]
        return torch.stack([torch.isfinite(self.sums).all(1), *whole]).all(0)

    def made(self, steps: int) -> None:
        """The runs are at this step now."""
        for run in self.runs:
            run.step = steps
            for state in run.optimizer.state.values():
                state["step"].fill_(steps)

    def _evaluation(self, x: Tensor, noise: Tensor, tf: Tensor, places: slice) -> Tensor:
        logits = self.each("logits", x, shared=True, places=places)
        t = tf.reshape(-1, *[1] * (logits.ndim - 1))
        outputs = self.each("decode", self.kind.hard(logits / t + noise), places=places)
        loss = self.model.losses_of(outputs.flatten(0, 1), x.expand(len(tf), *x.shape).flatten(0, 1))
        figures = [loss.reshape(len(tf), len(x)), self.kind.kl_to_uniform(logits), self.kind.kl_to_uniform(logits / t)]
        return torch.stack(figures, 1).double().sum(-1)

    def _evaluated(
        self, points: Tensor, x: Tensor, weights: Tensor | None, differentiated: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Losses (evaluation, run, example), the batch means of the decoder's, df/dz; the decoder's backward pass."""
        count, cells, examples = points.shape[:3]
        observed = x[:, None].expand(-1, count, *x.shape[1:]).flatten(0, 2)
        codes = points.movedim(0, 1).flatten(1, 2).requires_grad_(differentiated)
        outputs = self.each("decode", codes)
        loss = self.model.losses_of(outputs.flatten(0, 1), observed).reshape(cells, count, examples)
        of_decoder, derivative = decoder_backward(loss, None if weights is None else weights.movedim(0, 1), codes)
        if derivative is not None:
            derivative = derivative.reshape(cells, count, examples, *points.shape[3:]).movedim(1, 0)
        return loss.detach().movedim(1, 0), of_decoder, derivative

    def _parts(self) -> tuple[list[Part], Tensor | None]:
        """The runs of each estimator, and what puts runs in the order of the parts back at their places."""
        by_estimator: dict[Estimator, list[int]] = {}
        for i, run in enumerate(self.runs):
            by_estimator.setdefault(run.estimator, []).append(i)
        places = [torch.tensor(listed, device=self.device) for listed in by_estimator.values()]
        alone = len(by_estimator) == 1
        parts = []
        for (estimator, listed), at in zip(by_estimator.items(), places, strict=True):
            parts.append(Part(estimator, slice(None) if alone else at, self._baseline(estimator, listed)))
        return parts, None if alone else torch.cat(places).argsort()

    def _baseline(self, estimator: Estimator, listed: list[int]) -> RunningMeans | None:
        """The running means of some runs, whose states become views of these."""
        if estimator.baseline_decay is None:
            return None
        means = [mean for i in listed if (mean := self.runs[i].baseline) is not None]
        state = torch.stack([mean.state.to(self.device) for mean in means])
        for mean, row in zip(means, state, strict=True):
            mean.state = row
        return RunningMeans(estimator.baseline_decay, state)

    def _moment(self, name: str, key: str) -> Tensor:
        parameters = [run.model.get_parameter(name) for run in self.runs]
        states = [run.optimizer.state.get(p, {}) for run, p in zip(self.runs, parameters, strict=True)]
        return torch.stack([s.get(key, torch.zeros_like(p)) for s, p in zip(states, parameters, strict=True)]).detach()

    def _share(self) -> None:
        for name, stacked in self.parameters.items():
            for i, run in enumerate(self.runs):
                own = run.model.get_parameter(name)
                own.data = stacked.detach()[i]
                moments = {key: of[name][i] for key, of in zip(MOMENTS, (self.means, self.squares), strict=True)}
                run.optimizer.state[own] = {"step": torch.tensor(float(run.step)), **moments}
        for run, sums in zip(self.runs, self.sums, strict=True):
            run.sums = sums


def reason_against(runs: Sequence[Run]) -> str:
    """Why runs of equal settings, but for what an ensemble may vary, cannot be stacked; "" where they can."""
    first, model = runs[0], runs[0].model
    logits = torch.empty(1, *model.code_shape)
    counts = [run.estimator.evaluations_at(model.kind, logits) for run in runs]
    for run, count in zip(runs, counts, strict=True):
        if run.estimator.all_configurations:
            return f"{run.estimator.label} decodes all configurations at once"
        if not takes_tensors(run.estimator, model.kind, model.code_shape):
            return f"{run.estimator.label} does not take temperatures of several models at once"
        if count != counts[0]:
            return f"{run.estimator.label} takes {count} loss evaluations, {first.estimator.label} {counts[0]}"
    if buffers := [name for name, _ in model.named_buffers()]:
        return f"training may change the buffer {buffers[0]}"
    try:
        x = first.images.floats(slice(0, 2)).to(first.device)
        calls, parameters = _Calls(model), stack_module_state([run.model for run in runs[:2]])[0]

        def one(own: dict[str, Tensor], x: Tensor) -> Tensor:
            named = {f"model.{name}": parameter for name, parameter in own.items()}
            logits = functional_call(calls, named, ("logits", x))
            return functional_call(calls, named, ("decode", torch.zeros_like(logits)))

        with torch.no_grad():
            vmap(one)(parameters, torch.stack([x] * min(2, len(runs))))
    except (RuntimeError, ValueError) as error:
        errors.pass_on_memory(error)
        return str(error.__cause__ or error).splitlines()[0][:200]  # the cause: LatentModel suspects the images
    return ""


class _Calls(nn.Module):
    """A model's methods by name, for `functional_call`.

    Memory orders are left out, since vmap knows none, and linear layers are LinearLayers, one product for all models.
    """

    def __init__(self, model: LatentModel):
        super().__init__()
        self.model = copy.deepcopy(model).to("meta")  # its numbers come with each call
        for module in list(self.model.modules()):
            for name, child in module.named_children():
                if isinstance(child, ChannelsLast):
                    setattr(module, name, nn.Identity())
                elif type(child) is nn.Linear and child.bias is not None:
                    setattr(module, name, _Linear(child))

    def forward(self, method: str, given: Tensor) -> Tensor:
        return getattr(self.model, method)(given)


class _Linear(nn.Module):
    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return LinearLayers.apply(x, self.weight, self.bias)
