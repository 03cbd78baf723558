"""The systems that the comparison runs in processes of their own."""
