"""The command line: thin, one file a command. Nothing imports from here."""
