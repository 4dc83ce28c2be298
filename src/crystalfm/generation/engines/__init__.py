"""Samplers of completions behind one interface: transformers in this process, or vLLM."""
