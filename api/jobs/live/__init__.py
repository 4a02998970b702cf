"""A job while it happens: events, logs and curves."""
