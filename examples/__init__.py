"""Models of one's own, trained in seconds and measured: python -m examples.vq_classifier, examples.sequence_model."""
