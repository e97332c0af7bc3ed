"""For those who teach: build the assignments, mend and grade what comes back, report. Needs the extra ``course``."""
