"""Answers of models to prompts: sampled, seeded, resumable."""
