"""Which estimator errs least?"""

import gradlab

model = gradlab.bundled("vae-8x4-mnist")
x = gradlab.datasets.load("mnist-sample").first(20).floats()
ds = gradlab.bias(
    model,
    x,
    tf=1.6,
    tb=[0.6, 0.9, 1.3, 2.0],
    estimator=["decoupled-st-gs", "ste", "reinmax", "rloo:n=4"],
    moments=gradlab.MonteCarlo(draws=256, equal_cost=True),
)
gradlab.plots.save(gradlab.plots.tradeoff(ds), "gallery-tradeoff.png", size="page")
