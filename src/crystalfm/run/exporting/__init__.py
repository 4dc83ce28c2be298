"""Exports: a trained model as a folder that stands alone, is checked when it is loaded, and can be pushed to a hub."""
