"""What is told to others, and how it reaches them."""
