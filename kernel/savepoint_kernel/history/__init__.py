"""History: what cells committed, where it is kept, and the way back to it."""
