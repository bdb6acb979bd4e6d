"""How far off are estimators at my temperatures?"""

import gradlab

model = gradlab.bundled("vae-8x4-mnist")
x = gradlab.datasets.load("mnist-sample").first(20).floats()
names = ["decoupled-st-gs", "st-gs:convention=jang", "ste", "reinmax", "rloo:n=4"]
ds = gradlab.bias(model, x, tf=1.6, tb=1.3, estimator=names, draws=128)
gradlab.plots.save(gradlab.plots.comparison(ds), "gallery-point.png", size="column")
