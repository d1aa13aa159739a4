"""The interactive simulator: a support desk that executes actions."""
