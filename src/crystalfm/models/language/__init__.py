"""Causal language models that write crystals: from scratch, pretrained, with low-rank adapters, quantised."""
