"""Train, evaluate and predict: what is done with a composed configuration."""
