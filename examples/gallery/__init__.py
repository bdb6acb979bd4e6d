"""A figure for each question, one file each: `python -m examples.gallery.tradeoff` writes gallery-tradeoff.png."""
