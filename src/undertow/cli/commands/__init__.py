"""One module a command: options in, one call of the library, its outcome printed."""
