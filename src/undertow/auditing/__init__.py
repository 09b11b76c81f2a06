"""The audit: data and a model in, a table of scores and a summary out."""
