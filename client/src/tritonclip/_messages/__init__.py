"""What the client tells its caller: texts, suggestions for names and ports, and the line of a warning."""
