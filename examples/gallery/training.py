"""Does the gradient get worse along a training?"""

import torch

import gradlab
from gradlab.networks import categorical_vae

torch.manual_seed(0)
model = categorical_vae(latents=4, categories=8, hidden=[64])
images = gradlab.datasets.load("mnist-sample").first(1000).floats()
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
monitor = gradlab.Monitor(model, tf=1.6, tb=1.3, every=15, budget=1)
for _ in range(61):
    x = images[torch.randint(len(images), (100,))]
    z = gradlab.decoupled_st_gumbel_softmax(model.logits(x), tf=1.6, tb=1.3)
    optimizer.zero_grad()
    model.losses(z, x).mean().backward()
    optimizer.step()
    monitor.step(images)  # always the first 16
gradlab.plots.save(gradlab.plots.tracked(monitor.results), "gallery-training.png", size="page")
