"""From a checked file to the batches that a step trains on."""
