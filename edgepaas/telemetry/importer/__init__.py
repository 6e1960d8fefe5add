"""Import of readings from a CSV file into a running box."""
