"""Schema and checks of the composed configuration."""
