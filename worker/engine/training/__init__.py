"""How a step is taken, and all that is kept from one step to the next."""
