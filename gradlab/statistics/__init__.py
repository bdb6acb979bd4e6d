"""Arithmetic of intervals on plain arrays: the jackknife, inverted tests, norms over coordinates, U-statistics."""
