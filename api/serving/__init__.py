"""Models answer: whoever asks, and whatever computes the answer."""
