"""Explanations of a saved predictor: what its answers become when parts of its inputs are taken away."""
