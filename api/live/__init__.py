"""What a user sees while a job waits and runs."""
