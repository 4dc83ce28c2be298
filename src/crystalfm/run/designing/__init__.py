"""A design of defects step by step: what is asked, what a surrogate says of the answers, what is left behind."""
