"""What is between the wire and the routes."""
