"""Which pair of temperatures has the least bias?"""

import gradlab

model = gradlab.bundled("vae-8x4-mnist")
x = gradlab.datasets.load("mnist-sample").first(20).floats()
temperatures = [0.3, 0.6, 0.9, 1.2, 1.6, 2.0, 2.5, 3.0]
ds = gradlab.bias(model, x, tf=temperatures, tb=temperatures, draws=128)
gradlab.plots.save(gradlab.plots.heatmap(ds, "relative_bias_debiased"), "gallery-grid.png", size="column")
