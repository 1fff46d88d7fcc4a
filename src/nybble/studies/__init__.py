"""Many runs: recipes x seeds, paired statistics, step times, and the record a report is made of.

A study calls the ordinary training loop for every run; it adds no training of its own. What a
study writes is one JSON record; the tables and pages in `nybble.reports` are made from it alone.
"""
