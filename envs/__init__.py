"""What an operator sees and does, and the worlds that step."""
