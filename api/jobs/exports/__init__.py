"""Tuned models in other formats. An export is a row of the job table."""
