"""How much is made of a check that takes many minutes: in ``make test-slow`` a part that is the
same every time; with ``BUTWAIT_WHOLE=1`` all of it."""

import os

WHOLE = os.environ.get("BUTWAIT_WHOLE") == "1"
