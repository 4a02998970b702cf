"""What a job is going to be: its `auto` values, its memory, its time."""
