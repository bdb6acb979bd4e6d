"""Do relaxed and discrete gradient agree?"""

import gradlab

model = gradlab.bundled("vae-8x4-mnist")
x = gradlab.datasets.load("mnist-sample").first(20).floats()
ds = gradlab.gap(model, x, tf=1.0, tb=[0.3, 0.6, 1.0, 1.6, 2.2, 3.0], draws=64)
gradlab.plots.save(gradlab.plots.gap(ds), "gallery-gap.png", size="page")
