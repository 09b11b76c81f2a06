"""Undertow inside other libraries' loops; a module each, so that only what is used has to be installed."""
