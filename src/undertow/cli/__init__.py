"""The command line: parses options and calls the library; holds no logic of its own."""
