"""How faithful an estimator's gradients are: `bias`, `gap`, and the intervals of their metrics."""
