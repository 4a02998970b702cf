"""The workers that have been heard of."""
