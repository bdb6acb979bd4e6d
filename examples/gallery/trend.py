"""How do bias and standard deviation depend on a temperature?"""

import gradlab

model = gradlab.bundled("vae-8x4-mnist")
x = gradlab.datasets.load("mnist-sample").first(50).floats()
ds = gradlab.bias(model, x, tf=1.6, tb=[0.3, 0.6, 0.9, 1.2, 1.6, 2.0, 2.5, 3.0], draws=256)
gradlab.plots.save(gradlab.plots.bias_trends(ds), "gallery-trend.png", size="column")
