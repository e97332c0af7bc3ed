"""For those who teach: build the assignments, mend and grade what comes back, report. Needs the extra ``course``."""

import sys

# nbformat would load a grammar of web addresses, which no notebook needs, and that takes longer than all else in it.
sys.modules.setdefault("rfc3987_syntax", None)
