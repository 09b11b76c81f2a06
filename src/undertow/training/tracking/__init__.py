"""Looking at a probe set while a model trains."""
