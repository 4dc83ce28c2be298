"""Point defects in two-dimensional hosts: rules, configurations, their symmetry, and energies."""
