"""Fine-tuning jobs as their users see them: created, listed, cancelled, deleted."""
