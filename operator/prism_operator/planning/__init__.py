"""Pure planning: what a run consists of, and what to do next. No I/O, no clock, no cluster."""
