"""Base models and tuned models: who has them, who may use them, and how they are served."""
