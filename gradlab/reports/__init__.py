"""Results to read: what was found in words, the points of a result, and one self-contained page of several results."""
