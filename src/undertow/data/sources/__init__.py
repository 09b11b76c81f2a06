"""Files, folders, standard input and the Hub, as rows: streamed, each row numbered, broken ones with their error."""
