"""From the bytes of a data set to token ids and loss mask: one path for checks and training."""
