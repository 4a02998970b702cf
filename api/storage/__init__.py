"""Stored bytes: where they lie, signed links to them, and whether they are as they were."""
