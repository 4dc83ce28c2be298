"""Defects of layers in words: prompts, answers, their tokens and their grammar."""
