"""Side-by-side measurements; every table and plot of the documentation is generated from benchmarks/results."""
