"""Graders: from a row and a model's answer to a score, and from scores to a verdict. No network."""
