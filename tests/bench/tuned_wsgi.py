"""The app with the knobs of plain `waitress-serve` that `bench_load.py` compares.

`SWITCH_INTERVAL` is in seconds (Python's default is 0.005); `QUIET_QUEUE=1` silences the warning that waitress logs for
every request that finds no free thread.
"""

import logging
import os
import sys

from flaskml import create_app

if "SWITCH_INTERVAL" in os.environ:
    sys.setswitchinterval(float(os.environ["SWITCH_INTERVAL"]))
if os.environ.get("QUIET_QUEUE") == "1":
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)

app = create_app()
