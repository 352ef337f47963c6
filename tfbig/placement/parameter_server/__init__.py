"""Parameters on servers: the chief schedules steps, workers compute, ps hold variables."""
