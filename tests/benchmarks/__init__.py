"""Speed and memory of gradlab against straightforward versions: `python -m tests.benchmarks [NAME ...]`.

Ratios of two times of one run carry over to other machines, times do not; nothing here asserts a time. A limit
is printed beside its row. Each name runs in a process of its own: cold is cold, and peak memory is its own.
"""
