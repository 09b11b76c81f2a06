"""`undertow view`: the local server, its pages, the table of all pairs, charts as files."""
