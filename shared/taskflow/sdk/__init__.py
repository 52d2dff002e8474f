"""What a user's job is written with. Light to import: pydantic, and no client of any server."""
