"""The base models that a worker fetches: where they lie on its disk, and how they come there."""
