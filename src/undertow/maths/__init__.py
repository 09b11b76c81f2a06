"""Pure functions over tensors: no files, no models, no settings; nothing of the rest of Undertow is imported here."""
