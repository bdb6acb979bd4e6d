"""What should I use?"""

import gradlab

model = gradlab.bundled("vae-8x4-mnist")
x = gradlab.datasets.load("mnist-sample").first(20).floats()
candidates = ["decoupled-st-gs", "ste", "reinmax", "gumbel-rao", "rloo:n=4"]
found = gradlab.recommend(model, x, tf=1.6, tb=[0.6, 1.3, 2.0], estimator=candidates, averaged=100, draws=128)
gradlab.plots.save(gradlab.plots.recommendation(found.table), "gallery-choice.png", size="column")
