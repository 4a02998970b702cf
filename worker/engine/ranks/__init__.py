"""Several processes that train one job, each on a GPU of its own."""
