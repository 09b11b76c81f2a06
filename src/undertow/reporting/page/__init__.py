"""The shell of every page: templates, styles, scripts, colours, the settings of a run as a table."""
