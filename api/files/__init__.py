"""Uploads and data sets: stored, checked, counted in tokens, deleted."""
