"""Molecules and their representations; no training code."""
