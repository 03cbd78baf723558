"""Skip these tests before Python 3.11, which the SYNAPSE SDK requires."""

import sys

collect_ignore_glob = ["test_*.py"] if sys.version_info < (3, 11) else []
