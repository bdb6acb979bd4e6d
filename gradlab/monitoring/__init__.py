"""Fidelity in anyone's training loop: a measurement now and then, on a copy, within a share of the time."""
