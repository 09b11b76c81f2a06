"""The main job on a shipped set of pairs and a real small model."""
