"""Train, evaluate and predict: the only room that knows Hydra and the Trainer."""
