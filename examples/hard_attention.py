"""Hard attention: a recurrent reader looks at one place of a sequence at a time, and where it looks is drawn.

    python -m examples.hard_attention

x is a dict: token ids (example, place), a mask of the places that hold one, and the question that is to be answered.
Masked places have the logit -inf. The second look depends on what the first one saw, so latents depend on latents; all
places^2 paths are enumerated, many at once.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import gradlab

PLACES, TOKENS, LOOKS, WIDTH = 7, 12, 2, 24


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.place = nn.Embedding(TOKENS, WIDTH), nn.Embedding(PLACES, WIDTH)
        self.cell = nn.GRUCell(WIDTH, WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.answer = nn.Linear(WIDTH, TOKENS)

    def loss(self, x, sample):
        keys = self.token(x["tokens"]) + self.place.weight
        h, total = self.token(x["question"]), 0
        for _ in range(LOOKS):
            logits = (keys @ self.query(h)[:, :, None])[:, :, 0] / WIDTH**0.5
            where = sample(logits.masked_fill(~x["mask"], -torch.inf)[:, None])[:, 0]  # (example, place), one-hot
            h = self.cell((where[:, :, None] * keys).sum(1), h)
            total = total + nn.functional.cross_entropy(self.answer(h), x["answer"], reduction="none")
        return total / LOOKS


def program(model: Reader | None = None) -> gradlab.Program:
    """Gradients with respect to where it looks, and to what it reads there."""
    torch.manual_seed(0)
    model = model or Reader()
    return gradlab.Program(model.loss, {"query": model.query, "cell": model.cell})


def data(count: int, seed: int) -> dict[str, torch.Tensor]:
    """The answer is the token that stands right of the one that the question names."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.rand(count, TOKENS, generator=generator).argsort(1)[:, :PLACES]
    length = torch.randint(4, PLACES + 1, (count,), generator=generator)
    asked = (torch.rand(count, generator=generator) * (length - 1)).long()
    rows = torch.arange(count)
    return {
        "tokens": tokens,
        "mask": torch.arange(PLACES) < length[:, None],
        "question": tokens[rows, asked],
        "answer": tokens[rows, asked + 1],
    }


def train(steps: int, seed: int = 0) -> Reader:
    torch.manual_seed(seed)
    model, x = Reader(), data(4000, seed)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        some = torch.randint(len(x["tokens"]), (128,))
        loss = model.loss({name: of[some] for name, of in x.items()}, gradlab.decoupled_st_gumbel_softmax).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, and measure estimators by parameter tensor.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--draws", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("results"))
    given = parser.parse_args()
    trained, x = train(given.steps), data(32, seed=1)
    ds = gradlab.bias(program(trained), x, tb=1.0, estimator=["st-gs", "ste", "reinmax", "rloo"], draws=given.draws)
    print(f"{ds.attrs['paths']} paths of each example")
    by_tensor = ds.relative_bias_debiased.squeeze(["tf", "tb"], drop=True)
    print(by_tensor.transpose("parameter", "estimator").to_pandas().round(3))
    given.folder.mkdir(parents=True, exist_ok=True)
    gradlab.save_results(ds, given.folder / "attention.h5")


if __name__ == "__main__":
    main()
