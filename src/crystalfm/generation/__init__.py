"""Writing crystals as text: prompts, grammar, samplers."""
