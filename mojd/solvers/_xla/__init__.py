"""Solving inside of JAX programs: everything here imports JAX, and is imported when it is first needed."""
