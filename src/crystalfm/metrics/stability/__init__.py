"""Stability of crystals: relaxation with CHGNet, energy above a convex hull, and what is stable, unique and novel."""
