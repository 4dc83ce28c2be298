"""Training, evaluation and restoring of language models that write crystals."""
