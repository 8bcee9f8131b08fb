"""Background jobs that join the library (`vmoer`) and the store (`store`)."""
