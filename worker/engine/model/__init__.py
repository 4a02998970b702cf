"""The base model: loaded, quantized, and its layers made ready for training."""
