"""The only code that talks to Kubernetes: observes, stores what was decided, creates and deletes."""
