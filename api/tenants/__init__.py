"""Projects: their keys, what they may have, and what was done in them."""
