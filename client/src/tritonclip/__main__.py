"""`python -m tritonclip`: the command."""

import sys

from tritonclip._cli.main import main

sys.exit(main())
