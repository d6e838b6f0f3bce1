"""`python -m dist_seg`, which is what torchrun starts."""

import sys

from dist_seg.cli.main import main

sys.exit(main())
