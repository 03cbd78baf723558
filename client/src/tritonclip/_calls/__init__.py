"""Everything a method does except sending: pure functions, and flows of steps that both clients run."""
