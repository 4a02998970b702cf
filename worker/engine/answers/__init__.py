"""What a model says when it is asked: several answers at once, each by an adapter of its own."""
