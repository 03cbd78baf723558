"""`python -m tritonclip`: the command."""

import sys

from tritonclip._cli import main

sys.exit(main())
