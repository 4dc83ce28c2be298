"""A generation step by step: what is asked, what was written so far, what it is worth."""
