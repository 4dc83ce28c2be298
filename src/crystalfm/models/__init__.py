"""Networks, LightningModules and classical baselines."""
