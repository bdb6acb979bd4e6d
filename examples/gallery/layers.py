"""Which layers of the encoder get the worst gradient?"""

import gradlab

model = gradlab.bundled("vae-8x4-mnist")
x = gradlab.datasets.load("mnist-sample").first(5).floats()
ds = gradlab.bias(model, x, tf=1.6, tb=1.3, estimator=["decoupled-st-gs", "ste"], draws=64, wrt="encoder")
gradlab.plots.save(gradlab.plots.parameters(ds), "gallery-layers.png", size="column")
