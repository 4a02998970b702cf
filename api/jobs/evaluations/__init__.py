"""Whether a tuned model is better than its base: graders, and the verdict on a job."""
