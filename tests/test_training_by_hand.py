"""A whole training against a plain loop: batches, schedules, losses, optimizers and history by formulas."""

import math

import pytest
import torch
from torch.nn.functional import one_hot, softplus

from gradlab import networks, training
from gradlab.datasets import Images, load
from gradlab.latents import derived_seed
from gradlab.training import streams

EXPONENTIAL, COSINE = "0.6:2:exponential", "1.5:0.5:cosine"


class Wide(Images):
    """Images in double precision, so that a training is one too."""

    def floats(self, which=slice(None)):
        return self.pixels[which].double() / 255


def images(first, count):
    return Wide(load("mnist-sample").pixels[first : first + count, :, 8:16, 8:16].contiguous(), "made", "test", "none")


def temperature(spec, p):
    if not isinstance(spec, str):
        return spec
    start, end, shape = spec.split(":")
    a, b = float(start), float(end)
    return a * (b / a) ** p if shape == "exponential" else b + (a - b) * (1 + math.cos(math.pi * p)) / 2


def gumbel(seed, shape, *path):
    generator = torch.Generator().manual_seed(derived_seed(seed, *path))
    return -torch.empty((1, *shape), dtype=torch.float64).exponential_(generator=generator)[0].log()


def kl_to_uniform(logits, t):
    log_p = torch.log_softmax(logits / t, -1)
    return (log_p.exp() * log_p).sum((1, 2)) + logits.shape[1] * math.log(logits.shape[2])


class Straight:
    """Decoupled ST-GS: (1/tb) J(q) v(z)."""

    def estimate(self, loss, logits, g, tf, tb):
        z = one_hot((logits / tf + g).argmax(-1), logits.shape[-1]).double().requires_grad_()
        f = loss(z)
        (v,) = torch.autograd.grad(f.sum(), z, retain_graph=True)
        q = torch.softmax(logits / tb + g, -1)
        return q * (v - (q * v).sum(-1, keepdim=True)) / tb, f


class Score:
    """REINFORCE less the running mean of earlier losses."""

    def __init__(self):
        self.total, self.weight = 0.0, 0.0

    def estimate(self, loss, logits, g, tf, tb):
        z = one_hot((logits / tf + g).argmax(-1), logits.shape[-1]).double()
        f = loss(z)
        baseline = self.total / self.weight if self.weight else 0.0
        self.total, self.weight = 0.99 * self.total + 0.01 * float(f.detach().mean()), 0.99 * self.weight + 0.01
        return (f.detach() - baseline)[:, None, None] * (z - torch.softmax(logits / tf, -1)) / tf, f


class Local:
    """Each latent summed over, the encoder and the decoder alike."""

    def estimate(self, loss, logits, g, tf, tb):
        p, estimate, total = torch.softmax(logits / tf, -1), torch.zeros_like(logits), 0.0
        z = one_hot((logits / tf + g).argmax(-1), logits.shape[-1]).double()
        for i in range(logits.shape[1]):
            moved = z.repeat(logits.shape[2], 1, 1, 1)
            moved[:, :, i] = torch.eye(logits.shape[2], dtype=z.dtype)[:, None]
            f = torch.stack([loss(each) for each in moved], -1)
            total = total + (p[:, i] * f).sum(-1) / logits.shape[1]
            estimate[:, i] = p[:, i] * (f - (p[:, i] * f).sum(-1, keepdim=True)).detach() / tf
        return estimate, total


BY_HAND = {"decoupled-st-gs": Straight, "reinforce:baseline=running-mean": Score, "leg": Local}


def stepped(optimizer, t, lr, m, v):
    """The step of Adam (Kingma, Ba) or RAdam (Liu et al.) from the running means."""
    m, v = m / (1 - 0.9**t), v / (1 - 0.999**t)
    if optimizer == "adam":
        return lr * m / (v.sqrt() + 1e-8)
    most = 2 / 0.001 - 1
    rho = most - 2 * t * 0.999**t / (1 - 0.999**t)
    if rho <= 5:
        return lr * m
    r = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return lr * m * r / (v.sqrt() + 1e-8 / math.sqrt(1 - 0.999**t))


def by_hand(settings, seen, validation):
    torch.set_default_dtype(torch.float64)
    try:
        model = networks.build(settings.architecture, settings.config, settings.seed)
    finally:
        torch.set_default_dtype(torch.float32)
    parameters, method = list(model.parameters()), BY_HAND[settings.estimator]()
    means, squares = ([torch.zeros_like(w) for w in parameters] for _ in range(2))
    shape = model.latents, model.categories
    total, t, history = settings.epochs * -(-len(seen) // settings.batch_size), 0, []
    for epoch in range(settings.epochs):
        sums = [0.0, 0.0]
        for batch in streams.order(settings.seed, epoch, len(seen)).split(settings.batch_size):
            tf, tb = (temperature(spec, t / (total - 1)) for spec in (settings.tf, settings.tb))
            x = seen.floats(batch)
            noise = gumbel(settings.seed, (16, settings.batch_size, *shape), "noise", t // 16, 0)
            logits = model.encoder(x).reshape(len(x), *shape)

            def loss(z, x=x):
                o = model.decoder(z)
                return (softplus(o, threshold=500) - o * x).flatten(1).sum(1)

            estimate, f = method.estimate(loss, logits.detach(), noise[t % 16, : len(x)], tf, tb)
            kl = {"none": 0 * f, "model": kl_to_uniform(logits, 1), "sampled": kl_to_uniform(logits, tf)}[settings.kl]
            gradients = torch.autograd.grad(f.mean() + kl.mean() + (logits * estimate).sum() / len(x), parameters)
            sums = [sums[0] + float(f.detach().sum()), sums[1] + float(kl.detach().sum())]
            t += 1
            with torch.no_grad():
                for w, gradient, m, v in zip(parameters, gradients, means, squares, strict=True):
                    m.mul_(0.9).add_(0.1 * gradient)
                    v.mul_(0.999).add_(0.001 * gradient**2)
                    w -= stepped(settings.optimizer, t, settings.lr, m, v)
        with torch.no_grad():
            x = validation.floats()
            logits = model.encoder(x).reshape(len(x), *shape)
            o = model.decoder(
                one_hot((logits / tf + gumbel(settings.seed, logits.shape, "validation")).argmax(-1), shape[1]).double()
            )
            f = (softplus(o, threshold=500) - o * x).flatten(1).sum(1)
            of_validation = [f, kl_to_uniform(logits, 1), kl_to_uniform(logits, tf)]
        history.append([*(s / len(seen) for s in sums), *(float(each.mean()) for each in of_validation), tf, tb])
    return model, history


@pytest.mark.parametrize(
    ("estimator", "latents", "categories", "optimizer", "kl", "tf", "tb"),
    [
        ("decoupled-st-gs", 1, 2, "radam", "sampled", COSINE, EXPONENTIAL),
        ("reinforce:baseline=running-mean", 2, 3, "adam", "model", EXPONENTIAL, 1.3),
        ("leg", 3, 2, "radam", "none", 1.2, COSINE),
    ],
)
def test_a_training_is_that_of_a_plain_loop(tmp_path, estimator, latents, categories, optimizer, kl, tf, tb):
    """21 steps in blocks of 16; each epoch of 10 images ends with a batch of 2."""
    settings = training.Settings(
        config={"latents": latents, "categories": categories, "hidden": [4], "image_shape": [1, 8, 8]},
        estimator=estimator,
        tf=tf,
        tb=tb,
        kl=kl,
        optimizer=optimizer,
        lr=1e-2,
        batch_size=4,
        epochs=7,
        seed=5,
    )
    seen, validation = images(0, 10), images(50, 6)
    found = training.train(settings, seen, validation, tmp_path / "model.safetensors")
    wanted, history = by_hand(settings, seen, validation)
    for name, weight in wanted.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), weight, rtol=1e-9, atol=1e-11, msg=name)
    rows = list(zip(*found.provenance["history"].values(), strict=True))
    torch.testing.assert_close(torch.tensor(rows), torch.tensor(history), rtol=1e-6, atol=1e-9)  # of 7 digits
