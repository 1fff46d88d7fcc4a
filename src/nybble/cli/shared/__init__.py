"""What several commands share; a file directly in cli/ is a command."""
