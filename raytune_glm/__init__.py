"""Find the best fine-tuning method and settings for a GLM-family model, on one machine or many."""

__version__ = "0.1.0"
