"""The report of a run: plots and the single HTML file that holds them."""
