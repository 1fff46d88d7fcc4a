"""Recorded sound: files, sets with labels or transcripts, and the log-mel front end."""
