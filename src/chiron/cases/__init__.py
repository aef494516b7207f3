"""What a case is, and how cases are read from the world."""
