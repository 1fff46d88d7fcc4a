"""Text data: running text, pairs for translation, labelled texts."""
