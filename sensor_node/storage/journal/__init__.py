"""What happened: events, runs, steps of the clock."""
