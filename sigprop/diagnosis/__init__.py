"""What is wrong with a recorded network, where, why, and what to do about it."""
