"""The report of a run, or of several side by side, as one HTML page: `nybble report`.

data.py      reads run folders          looks.py     thins out and packs the looks at layers
groups.py    pairs runs by seed         bits.py      what ran in how many bits
sections/    the parts of the page, each with one plain sentence at its head
page.py      puts them together         script.js, style.css   drawn and styled in the browser
"""

from nybble.reports.run.page import Report, make_report, write_report

__all__ = ["Report", "make_report", "write_report"]
