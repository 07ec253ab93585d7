"""The only code that talks to Kubernetes: observes, stores decisions, creates and deletes."""
