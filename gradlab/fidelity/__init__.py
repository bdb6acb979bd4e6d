"""How faithful an estimator's gradients are: figures on plain arrays, and the analyses that fill Datasets with them."""
