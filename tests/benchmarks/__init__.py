"""Speed and memory of gradlab against straightforward versions of the same: `python -m tests.benchmarks [NAME ...]`.

Ratios of two times of one run carry over to other machines, times do not; nothing here asserts a time. A limit is
printed beside its row. Each name runs in a process of its own, so that cold is cold and peak memory is its own.
"""
