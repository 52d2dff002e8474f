"""The scenarios, one a module, each with its `SCENARIO`."""
