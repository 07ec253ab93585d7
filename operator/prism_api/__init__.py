"""The contract between planner, operator, local runner and trainer: pydantic and stdlib only."""
