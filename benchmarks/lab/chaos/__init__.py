"""A chaos run: faults at random, several at once, against a station with all that it can be given."""
