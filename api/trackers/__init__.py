"""What follows a job from outside and never gets in its way: Weights & Biases."""
