"""Judging crystals, whoever made them."""
