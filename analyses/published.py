"""Figures that the paper publishes, arXiv 2410.13331 v1, as text recognition of its pages kept them.

Figure 4 (a): the validation loss of the 16x12 VAE over a grid of tf and tb, mean over 10 seeds, in nats. Of its cells
63 were kept, in reading order (one of them as "85 27"). The labels of the axes were not, but for a 1.6, and cells are
missing from most rows. So no cell's temperatures are known. What is certain: the values, and with them the range; and
that two rows are whole, since no row has more than their nine values, so that the order of their columns is known,
though not which row they are, nor whether a row is one tf or one tb, nor on which side the small temperatures are.
"""

FIGURE4_ROWS = (
    (86.08, 84.17, 84.74, 86.28, 89.95, 91.14, 91.34),
    (86.44, 83.74, 84.11, 85.12, 91.10),
    (86.50, 84.03, 84.43, 85.10, 89.66),
    (87.29, 85.27, 84.28, 84.08, 84.40, 84.94, 86.38, 90.88),
    (86.34, 87.19, 84.34, 83.83, 84.29, 85.10),
    (86.17, 85.63, 85.00, 84.37, 84.41, 84.23, 84.85, 85.38, 87.31),
    (86.10, 85.70, 85.32, 84.73, 84.24, 84.10, 84.42, 84.53, 85.46),
    (84.10, 84.31, 84.02, 84.74, 85.54, 86.00, 87.05),
    (86.41, 86.24, 84.18, 83.96, 84.25, 84.69, 85.61),
)
FIGURE4 = tuple(sorted(value for row in FIGURE4_ROWS for value in row))
WHOLE_ROWS = tuple(row for row in FIGURE4_ROWS if len(row) == 9)
