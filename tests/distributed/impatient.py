"""`dist-seg` with timeouts that the configuration would refuse: no test can wait as long as a store may be retried."""

import sys
from unittest import mock

from dist_seg.cli import main

if __name__ == "__main__":
    with mock.patch("dist_seg.config.checks.LONGEST_RETRY_S", 1.0):
        sys.exit(main())
