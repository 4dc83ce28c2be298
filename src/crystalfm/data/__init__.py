"""Data sets as records with splits, and the batches made from them."""
