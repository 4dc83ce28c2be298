"""Representations to vectors, and the cache of frozen encoders' vectors."""
