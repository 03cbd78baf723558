"""Entry point of `python -m tritonclip`."""

import sys

from tritonclip._cli.main import main

sys.exit(main())
