"""Metrics in physical units."""
