"""Which estimator and which backward temperature: candidates, their errors, successive halving, and the answer."""
