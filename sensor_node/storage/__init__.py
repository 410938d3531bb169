"""The database: every SQL statement, the write lock, and nothing about networks."""
