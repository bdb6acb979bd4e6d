"""What a layer is: the law of its codes, its gradient, the catalogue entry that it equals, and its faults."""
