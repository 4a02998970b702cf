"""A family of models earns its place by a test on its own config, not by its name."""
