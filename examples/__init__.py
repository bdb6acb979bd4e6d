"""Complete models, trained in seconds and measured: python -m examples.vq_classifier, examples.sequence_model."""
