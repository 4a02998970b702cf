"""What a job will take: memory and time, by kind of device."""
